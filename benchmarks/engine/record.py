"""What a row of the table holds: values with intervals, their bars, and peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from benchmarks.paired import Estimate

MIB = 2**20


class Bar(NamedTuple):
    """What a value must reach; a bar of "not slower" is judged by the nearer interval end."""

    sense: Literal["at least", "at most"]
    limit: float
    whole_interval: bool = False

    def met(self, estimate: Estimate) -> bool:
        """Whether the value, or the unlucky end of its interval, is on the right side."""
        if self.sense == "at least":
            return (estimate.low if self.whole_interval else estimate.value) >= self.limit
        return (estimate.high if self.whole_interval else estimate.value) <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of a row; without a bar it is only reported."""

    what: str
    baseline: str
    estimate: Estimate
    sides: tuple[str, ...]  # keys of the row's ``peak_mib``: the baseline, then ours
    bar: Bar | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        return None if self.bar is None else self.bar.met(self.estimate)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "what": self.what,
            "baseline": self.baseline,
            "value": self.estimate.value,
            "interval": [self.estimate.low, self.estimate.high],
            "bar": self.bar and self.bar._asdict(),
            "met": self.met,
            "sides": list(self.sides),
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: everything measured on the same programs in one go."""

    name: str
    title: str
    measures: tuple[Measure, ...]
    peak_mib: Mapping[
        str, float
    ]  # most memory resident while a side ran, Python and torch included
    settings: Mapping[str, float | str] = field(default_factory=dict)
    seconds: float = 0.0  # that measuring it took

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = asdict(self)
        return plain | {"measures": [measure.as_json() for measure in self.measures]}


def mebibytes(peaks: Mapping[str, int]) -> dict[str, float]:
    """Peaks in MiB."""
    return {name: round(peak / MIB, 1) for name, peak in peaks.items()}
