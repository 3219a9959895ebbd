"""What a policy is: one immutable, versioned, validated set of thresholds for a ladder of tiers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from gateway.errors import PolicyRefused
from gateway.generation import Json

DEFAULT_THRESHOLD = 0.5
MAX_VERSION = 2**53 - 1  # what every JSON reader can hold


@dataclass(frozen=True, slots=True)
class Rung:
    """One tier's thresholds, probabilities in [0, 1]; zero and zero for the last tier.

    A request starts here when P(good | request) reaches ``start``, and the answer is kept when
    P(good | request, answer) reaches ``accept``.

    Raises:
        PolicyRefused: a threshold that is not a finite number from 0 to 1.
    """

    tier: str
    start: float = 0.0
    accept: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "accept"):
            value = _probability(getattr(self, name), f"tiers.{self.tier}.{name}")
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds of a whole ladder, cheapest tier first. The last tier's answer always stands.

    Raises:
        PolicyRefused: no tier, a tier twice, a bad version, or thresholds on the last tier.
    """

    version: int
    rungs: tuple[Rung, ...]

    def __post_init__(self) -> None:
        if type(self.version) is not int or not 1 <= self.version <= MAX_VERSION:
            raise PolicyRefused("version", f"got {self.version!r}; expected a positive integer")
        if not self.rungs:
            raise PolicyRefused("tiers", "got none; expected at least one tier")
        if len(set(self.ladder)) != len(self.rungs):
            raise PolicyRefused("tiers", f"got {list(self.ladder)}; expected distinct tiers")
        _refuse_thresholds_on_last(self.rungs[-1])

    @property
    def ladder(self) -> tuple[str, ...]:
        """Names of the tiers, cheapest first."""
        return tuple(rung.tier for rung in self.rungs)

    @property
    def etag(self) -> str:
        """Strong entity tag: the version and a digest of the thresholds, quoted."""
        digest = hashlib.sha256(self.encode()).hexdigest()[:16]
        return f'"{self.version}-{digest}"'

    def index(self, tier: str) -> int:
        """Position of a tier in the ladder.

        Raises:
            KeyError: the ladder has no such tier.
        """
        try:
            return self.ladder.index(tier)
        except ValueError:
            raise KeyError(tier) from None

    def document(self) -> dict[str, dict[str, float]]:
        """Thresholds by tier, the shape ``parse`` takes."""
        return {rung.tier: {"start": rung.start, "accept": rung.accept} for rung in self.rungs}

    def encode(self) -> bytes:
        """Canonical JSON, the shape ``decode`` takes."""
        value = {"version": self.version, "tiers": self.document()}
        return json.dumps(value, separators=(",", ":"), sort_keys=False).encode()

    @classmethod
    def decode(cls, raw: bytes, ladder: tuple[str, ...]) -> Self:
        """Read what ``encode`` wrote.

        Raises:
            PolicyRefused: not JSON, other keys, or thresholds that do not fit ``ladder``.
        """
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            raise PolicyRefused("", "got bytes that are not JSON; expected a policy") from None
        if not isinstance(value, dict) or set(value) != {"version", "tiers"}:
            raise PolicyRefused("", "expected an object of version and tiers")
        return cls(value["version"], parse_rungs(value["tiers"], ladder))

    @classmethod
    def initial(cls, ladder: Iterable[str], chosen: Mapping[str, Rung] | None = None) -> Self:
        """Version 1: the ``chosen`` thresholds, one half where none was chosen."""
        names = tuple(ladder)
        rungs = tuple(
            (chosen or {}).get(name, Rung(name, DEFAULT_THRESHOLD, DEFAULT_THRESHOLD))
            for name in names[:-1]
        )
        return cls(1, (*rungs, *(Rung(name) for name in names[-1:])))

    def among(self, tiers: Collection[str]) -> Self:
        """This policy where only ``tiers`` may be asked; the answer of the last of them stands.

        Raises:
            PolicyRefused: the ladder has none of them.
        """
        kept = [rung for rung in self.rungs if rung.tier in tiers]
        return replace(self, rungs=(*kept[:-1], *(Rung(rung.tier) for rung in kept[-1:])))

    def successor(self, rungs: tuple[Rung, ...]) -> Self:
        """The next version, with other thresholds."""
        return replace(self, version=self.version + 1, rungs=rungs)


def parse_rungs(document: Json, ladder: tuple[str, ...]) -> tuple[Rung, ...]:
    """Thresholds of every tier of ``ladder`` from a JSON object keyed by tier.

    The last tier may be left out, or carry zeros.

    Raises:
        PolicyRefused: unknown or missing tier, unknown or missing key, or a bad threshold.
    """
    _check_object(document, "tiers", "an object keyed by tier")
    unknown = [name for name in document if name not in ladder]
    if unknown:
        raise PolicyRefused(f"tiers.{unknown[0]}", f"unknown tier; expected {_listed(ladder)}")
    missing = [name for name in ladder[:-1] if name not in document]
    if missing:
        raise PolicyRefused(f"tiers.{missing[0]}", "missing; expected its start and accept")
    inner = tuple(_parse_rung(name, document[name]) for name in ladder[:-1])
    last = ladder[-1]
    return (*inner, _parse_last(last, document.get(last, {})))


def _parse_rung(name: str, value: Json) -> Rung:
    field = f"tiers.{name}"
    _check_keys(value, field)
    for key in ("start", "accept"):
        if key not in value:
            raise PolicyRefused(f"{field}.{key}", "missing; expected a number from 0 to 1")
    return Rung(name, value["start"], value["accept"])


def _parse_last(name: str, value: Json) -> Rung:
    _check_keys(value, f"tiers.{name}")
    rung = Rung(name, value.get("start", 0.0), value.get("accept", 0.0))
    _refuse_thresholds_on_last(rung)
    return rung


def _refuse_thresholds_on_last(rung: Rung) -> None:
    for key in ("start", "accept"):
        got = getattr(rung, key)
        if got != 0.0:
            raise PolicyRefused(
                f"tiers.{rung.tier}.{key}",
                f"got {got}; the last tier's answer always stands: expected 0 or nothing",
            )


def _check_keys(value: Json, field: str) -> None:
    _check_object(value, field, "an object of start and accept")
    unknown = [key for key in value if key not in ("start", "accept")]
    if unknown:
        raise PolicyRefused(f"{field}.{unknown[0]}", "unknown key; expected start or accept")


def _check_object(value: Json, field: str, expected: str) -> None:
    if not isinstance(value, Mapping):
        raise PolicyRefused(field, f"got {type(value).__name__}; expected {expected}")


def _probability(value: Json, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        got = type(value).__name__
        raise PolicyRefused(field, f"got {got}; expected a number from 0 to 1")
    if not 0 <= value <= 1:  # false for NaN too
        raise PolicyRefused(field, f"got {str(value)[:32]}; expected a number from 0 to 1")
    return float(value) + 0.0  # -0.0 becomes 0.0: equal policies, equal bytes


def _listed(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)
