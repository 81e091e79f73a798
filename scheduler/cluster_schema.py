"""What a cluster file may say: pydantic models of its TOML, strict."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from scheduler.errors import UserInputError
from scheduler.units import parse_size

MOST_HOSTS = 4096

_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
_Gbit = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
_Milliseconds = Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)]


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('a size is a number of GiB or a text such as "11.5" or "11000MiB"')
    try:
        return parse_size(str(value), "a size")
    except UserInputError as error:
        raise ValueError(str(error).rstrip(".")) from None


_Size = Annotated[int, BeforeValidator(_size)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NetworkTable(_Table):
    """What holds for hosts that say nothing of their own connection."""

    bandwidth_gbit: _Gbit | None = None
    latency_ms: _Milliseconds | None = None


class HostTable(_Table):
    """One host, or `count` equal ones called name-1, name-2, ...; sizes in bytes once read."""

    name: _Name
    count: int = Field(default=1, ge=1, le=MOST_HOSTS)
    address: _Text | None = None
    gpus: list[_Text] = Field(default=[], max_length=16)
    vram: list[_Size] | None = Field(default=None, max_length=16)
    cpu: _Text | None = None
    cores: int | None = Field(default=None, ge=1, le=4096)
    memory: _Text | None = None
    ram: _Size | None = None
    free_ram: _Size | None = None
    speeds: _Text | None = None
    bandwidth_gbit: _Gbit | None = None
    latency_ms: _Milliseconds | None = None
    price_usd: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)

    @model_validator(mode="after")
    def _agrees(self) -> HostTable:
        if self.gpus and self.vram is not None and len(self.gpus) != len(self.vram):
            raise ValueError(
                f"host {self.name} names {len(self.gpus)} gpus and {len(self.vram)} amounts of"
                " vram; give one for each, or no vram"
            )
        if self.cpu is not None and self.cores is not None:
            raise ValueError(
                f"host {self.name} names a cpu, which has its cores; leave one of both out"
            )
        if self.count > 1 and self.address is not None:
            raise ValueError(
                f"host {self.name} stands for {self.count} and has one address; list hosts with"
                " addresses one by one"
            )
        return self

    @property
    def names(self) -> list[str]:
        """What the hosts of this table are called."""
        if self.count == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(1, self.count + 1)]


class LinkTable(_Table):
    """A pair whose link is its own; a name with a count means every host of it."""

    between: list[_Name] = Field(min_length=2, max_length=2)
    bandwidth_gbit: _Gbit
    latency_ms: _Milliseconds


class ClusterFile(_Table):
    """The whole file."""

    driver: _Name | None = None
    network: NetworkTable = NetworkTable()
    host: list[HostTable] = Field(min_length=1, max_length=MOST_HOSTS)
    link: list[LinkTable] = Field(default=[], max_length=MOST_HOSTS)
