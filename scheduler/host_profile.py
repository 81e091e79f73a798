"""Host profile: measured speeds of a machine under a name, as a JSON document."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scheduler.cost import DeviceSpeed, HopSpeed, Speeds, WeightSpeed
from scheduler.hardware import Host
from scheduler.plan import Precision

HOST_SCHEMA: Final = "glm-plan/host/1"
HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_Rate = Annotated[float, Field(gt=0, lt=1e18, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True
    )


class WeightRate(_Document):
    """`scheduler.cost.WeightSpeed` as stored."""

    bytes_per_second: _Rate
    extra_row_share: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    lm_head_bytes_per_second: _Rate | None = None
    flops_per_second: _Rate | None = None


class DeviceConstants(_Document):
    """`scheduler.cost.DeviceSpeed` as stored, and what the device calls itself.

    `model_name` None: the constants hold for whatever device has this place in a plan.
    """

    model_name: str | None = Field(default=None, max_length=200)
    bandwidth_bytes_per_second: _Rate
    flops_per_second: _Rate
    block_overhead_seconds: _Seconds
    source: str = Field(min_length=1, max_length=400)
    weights: dict[Precision, WeightRate] = {}
    kv_bytes_per_second: _Rate | None = None
    rows_per_pass: int | None = Field(default=None, ge=1, le=1024)
    fp32_flops_per_second: _Rate | None = None

    @classmethod
    def of(cls, speed: DeviceSpeed, model_name: str | None) -> DeviceConstants:
        """Store the constants of a device."""
        return cls(
            model_name=model_name,
            bandwidth_bytes_per_second=speed.bandwidth_bytes_per_second,
            flops_per_second=speed.flops_per_second,
            block_overhead_seconds=speed.block_overhead_seconds,
            source=speed.source,
            weights={
                precision: WeightRate(**dataclasses.asdict(rate))
                for precision, rate in speed.weights.items()
            },
            kv_bytes_per_second=speed.kv_bytes_per_second,
            rows_per_pass=speed.rows_per_pass,
            fp32_flops_per_second=speed.fp32_flops_per_second,
        )

    def speed(self) -> DeviceSpeed:
        """The constants as predictions use them, labelled calibrated."""
        return DeviceSpeed(
            bandwidth_bytes_per_second=self.bandwidth_bytes_per_second,
            flops_per_second=self.flops_per_second,
            block_overhead_seconds=self.block_overhead_seconds,
            provenance="calibrated",
            source=self.source,
            weights={
                precision: WeightSpeed(**rate.model_dump())
                for precision, rate in self.weights.items()
            },
            kv_bytes_per_second=self.kv_bytes_per_second,
            rows_per_pass=self.rows_per_pass,
            fp32_flops_per_second=self.fp32_flops_per_second,
        )


class HopConstants(_Document):
    """`scheduler.cost.HopSpeed` as stored."""

    latency_seconds: _Seconds
    bytes_per_second: _Rate


class Evidence(_Document):
    """One measurement that the constants come from, and what they say of it; seconds.

    `spread` is the interquartile range over the median; None where there was a single run.
    """

    what: str = Field(min_length=1, max_length=200)
    measured_seconds: _Rate
    predicted_seconds: _Rate
    spread: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def residual(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_seconds / self.measured_seconds - 1


class ThreadPoint(_Document):
    """Seconds of one decoded token in one block with so many threads."""

    threads: int = Field(ge=1, le=1 << 16)
    precision: Precision
    block_seconds: _Rate
    spread: float = Field(ge=0, allow_inf_nan=False)


class MeasuredCpu(_Document):
    """The processor that was measured: what has to agree before its speeds are used unasked."""

    model_name: str = Field(min_length=1, max_length=200)
    usable_cores: int = Field(ge=1, le=1 << 16)


class HostProfile(_Document):
    """A machine's measured speeds; the JSON of this class is a contract.

    `cpu` None: measured elsewhere, used only when named. `backends` holds the CPU's speeds under
    other engines than MNN, whose are in `devices`; profiles made before have none. `facts` holds
    what else was found out.
    """

    schema_: Literal["glm-plan/host/1"] = Field(HOST_SCHEMA, alias="schema")
    name: str = Field(pattern=f"^{HOST_NAME.pattern}$")
    made: str = Field(max_length=40, description="when, ISO 8601 in UTC")
    cpu: MeasuredCpu | None = None
    devices: dict[Annotated[str, Field(pattern=r"^(cpu|gpu[0-9]+)$")], DeviceConstants]
    backends: dict[Literal["ort:cpu"], DeviceConstants] = {}
    hop: HopConstants
    evidence: list[Evidence] = []
    threads: list[ThreadPoint] = []
    facts: dict[str, str | float | int | None] = {}

    @model_validator(mode="after")
    def _has_a_cpu(self) -> HostProfile:
        if "cpu" not in self.devices:
            raise ValueError("devices lacks cpu, whose speed every plan needs")
        return self

    def over(self, estimated: Speeds, host: Host | None) -> Speeds:
        """Replace estimated constants by the measured ones.

        A GPU's constants are used for the GPU of that model, or where no model is stated.
        """
        models = {gpu.name: gpu.model_name for gpu in host.gpus} if host else {}
        devices = dict(estimated.devices)
        for name, constants in self.devices.items():
            if name == "cpu" or constants.model_name is None:
                devices[name] = constants.speed()
                continue
            for gpu, model in models.items():
                if model == constants.model_name:
                    devices[gpu] = constants.speed()
        hop = HopSpeed(self.hop.latency_seconds, self.hop.bytes_per_second)
        backends: dict[str, DeviceSpeed] = {
            name: constants.speed() for name, constants in self.backends.items()
        }
        return Speeds(devices, hop, backends)
