"""Recorded outcomes: which tier answered what to which prompt, and whether it was right.

One JSON object a line, one line for each prompt and tier. Keys:
``prompt`` (string) or ``messages`` (OpenAI's chat format), ``split``, ``tier``, ``answer``,
``correct`` (boolean); optional: ``family``, ``finish_reason``, ``prompt_tokens``, ``tokens`` (of
the answer), ``latency_ms``, ``logprobs`` and ``margins`` (natural logarithms, one number a
token), ``fingerprint`` (of the tier that answered). Unknown keys are errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

from router_model.errors import OutcomeError
from router_model.request_text import Request

Split = Literal["router-train", "thresholds", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One tier's answer to one prompt. Exactly one of ``prompt`` and ``messages`` is given."""

    split: Split
    tier: str
    answer: str
    correct: bool
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    family: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    latency_ms: float | None = None
    logprobs: tuple[float, ...] | None = None
    margins: tuple[float, ...] | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise OutcomeError("prompt and messages: expected exactly one of them")
        if self.split not in SPLITS:
            raise OutcomeError(f"split: got {self.split!r}, expected one of {SPLITS}")
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if not check(value):
                raise OutcomeError(f"{name}: got {value!r:.80}, expected {check.__doc__}")

    @property
    def request(self) -> Request:
        """What was asked, as the router takes it."""
        return self.prompt if self.prompt is not None else (self.messages or ())

    @property
    def digest(self) -> int:
        """64 bits that name the prompt, whichever tier answered."""
        return digest_of(self.request)


def digest_of(request: Request) -> int:
    """64 bits that name a prompt: a function of its text alone, the same everywhere."""
    if not isinstance(request, str):
        request = json.dumps([dict(message) for message in request], sort_keys=True)
    named = blake2b(request.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(named, "big")


def split_of(request: Request) -> Split:
    """The split of a prompt that comes without one: half to train, a quarter each to the others."""
    quarter = digest_of(request) % 4
    return "router-train" if quarter < 2 else SPLITS[quarter - 1]


def read_outcomes(path: Path) -> list[Outcome]:
    """All outcomes of a file. Raises OutcomeError naming the line."""
    with path.open(encoding="utf-8") as lines:
        return list(parse_outcomes(lines, str(path)))


def parse_outcomes(lines: Iterable[str], source: str = "outcomes") -> Iterator[Outcome]:
    """Outcomes of JSON lines; blank lines are skipped. Raises OutcomeError naming the line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield parse_outcome(line)
            except OutcomeError as error:
                raise OutcomeError(f"{source}:{number}: {error}") from error


def parse_outcome(line: str) -> Outcome:
    """One outcome of one JSON line. Raises OutcomeError naming the field."""
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise OutcomeError(f"expected one JSON object, got {error}") from error
    if not isinstance(found, dict):
        raise OutcomeError(f"expected a JSON object, got {type(found).__name__}")
    known = {field.name for field in fields(Outcome)}
    if unknown := sorted(found.keys() - known):
        raise OutcomeError(f"{unknown[0]}: unknown key, expected one of {sorted(known)}")
    for name in ("messages", "logprobs", "margins"):
        if isinstance(found.get(name), list):
            found[name] = tuple(found[name])
    try:
        return Outcome(**found)
    except TypeError as error:
        raise OutcomeError(f"missing key: {error}") from error


def format_outcome(outcome: Outcome) -> str:
    """One JSON line, without its end; numbers rounded to what decides anything."""
    kept = {name: value for name, value in asdict(outcome).items() if value is not None}
    for name in ("logprobs", "margins"):
        if name in kept:
            kept[name] = [round(number, 4) for number in kept[name]]
    return json.dumps(kept, ensure_ascii=False, allow_nan=False)


def _no_constant(name: str) -> None:
    raise OutcomeError(f"got {name}, expected finite numbers only")


Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    """a string"""
    return isinstance(value, str)


def _is_optional_text(value: Any) -> bool:
    """a string or nothing"""
    return value is None or isinstance(value, str)


def _is_flag(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    """a whole number >= 0 or nothing"""
    return value is None or (type(value) is int and value >= 0)


def _is_duration(value: Any) -> bool:
    """a finite number >= 0 or nothing"""
    return value is None or (_is_finite(value) and value >= 0)


def _are_numbers(value: Any) -> bool:
    """a list of finite numbers or nothing"""
    return value is None or (isinstance(value, tuple) and all(map(_is_finite, value)))


def _are_messages(value: Any) -> bool:
    """a list of messages or nothing"""
    return value is None or (
        isinstance(value, tuple) and all(isinstance(message, Mapping) for message in value)
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_CHECKS: Mapping[str, Check] = {
    "tier": _is_text,
    "answer": _is_text,
    "correct": _is_flag,
    "prompt": _is_optional_text,
    "messages": _are_messages,
    "family": _is_optional_text,
    "finish_reason": _is_optional_text,
    "prompt_tokens": _is_count,
    "tokens": _is_count,
    "latency_ms": _is_duration,
    "logprobs": _are_numbers,
    "margins": _are_numbers,
    "fingerprint": _is_optional_text,
}
