"""Runs requests with and without drafts, and explains every token in which they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drafting.source import Reference
from verifier.certificate_cases import Cell, Mix, Variant
from verifier.certificate_sources import TRUTH
from verifier.engine import Engine
from verifier.request import DecodeReceipt, GenerationRequest, Speculation, StepOutput

_CORRUPT_EVERY = 5  # of the tokens in the prediction that comes with every request


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """All that one request was given."""

    tokens: tuple[int, ...]
    text: str
    margins: tuple[float, ...]  # decision margin of each token
    logprobs: tuple[float, ...]  # of each token, where asked for
    ending: tuple[str | None, str | int | None, str | None]  # finish reason, stop reason, error
    receipt: DecodeReceipt


class Difference(NamedTuple):
    """Where a request first departs from what the plain loop wrote."""

    case: str
    variant: str
    place: int  # of the token in the output
    margin: float  # of the plain loop's decision there; inf where no decision is to blame
    explained: bool  # whether that margin lies below the bound


class Compared(NamedTuple):
    """One request beside its plain run."""

    difference: Difference | None
    deviation: float  # largest difference of a log-prob before it


def written(outputs: Sequence[StepOutput]) -> Written:
    """The outputs of one choice, the last of which carries its receipt, as one piece."""
    last = outputs[-1]
    assert last.receipt is not None
    return Written(
        tokens=tuple(token for output in outputs for token in output.tokens),
        text="".join(output.text for output in outputs),
        margins=tuple(margin for output in outputs for margin in output.margins),
        logprobs=tuple(entry.logprob for output in outputs for entry in output.logprobs),
        ending=(last.finish_reason, last.stop_reason, last.error),
        receipt=last.receipt,
    )


def run_plain(engine: Engine, model: str, variants: Sequence[Variant]) -> list[Written]:
    """Every variant alone, nothing drafted, nothing shared: the loop that all else is held to."""
    off = Speculation(mode="off")
    found = []
    for index, variant in enumerate(variants):
        request = variant.request(model, index, speculation=off, cache_salt=f"plain {index}")
        found += _drain(engine, [[request]])
    return found


def run_cell(
    engine: Engine,
    model: str,
    cell: Cell,
    variants: Sequence[Variant],
    plain: Sequence[Written],
) -> list[Written]:
    """Every variant under ``cell``; references tell what ``plain`` wrote, partly wrong."""
    speculation = Speculation(mode=cell.mode, sources=cell.sources, max_nodes=cell.max_nodes)
    requests = [
        variant.request(model, index, speculation=speculation, references=_references(truth.tokens))
        for index, (variant, truth) in enumerate(zip(variants, plain, strict=True))
    ]
    if cell.mix == "alone":
        return [one for request in requests for one in _drain(engine, [[request]])]
    return _drain(engine, _arrivals(requests, cell.mix))


def compare(plain: Written, other: Written, *, case: str, variant: str, bound: float) -> Compared:
    """Hold ``other`` against ``plain``; a difference is explained by a margin below ``bound``."""
    place = _first_difference(plain, other)
    before = zip(plain.logprobs[:place], other.logprobs[:place], strict=False)
    deviation = max((abs(a - b) for a, b in before), default=0.0)
    if place is None:
        return Compared(None, deviation)
    in_both = place < min(len(plain.tokens), len(other.tokens))
    margin = plain.margins[place] if in_both else math.inf
    return Compared(Difference(case, variant, place, margin, margin < bound), deviation)


def _first_difference(plain: Written, other: Written) -> int | None:
    for place, (a, b) in enumerate(zip(plain.tokens, other.tokens, strict=False)):
        if a != b:
            return place
    same = (plain.tokens, plain.text, plain.ending) == (other.tokens, other.text, other.ending)
    return None if same else min(len(plain.tokens), len(other.tokens))


def _references(truth: tuple[int, ...]) -> tuple[Reference, ...]:
    wrong = tuple(
        truth[place - 1] if place % _CORRUPT_EVERY == _CORRUPT_EVERY - 1 else token
        for place, token in enumerate(truth)
    )
    return (
        Reference("prediction", wrong),
        Reference("rejected_answer", wrong[::2]),
        Reference(TRUTH, truth),
    )


def _arrivals(requests: list[GenerationRequest], mix: Mix) -> list[list[GenerationRequest]]:
    """What is submitted before each step."""
    if mix == "staggered":
        return [[request] for request in requests]
    return [requests]


def _drain(engine: Engine, arrivals: Sequence[Sequence[GenerationRequest]]) -> list[Written]:
    """Run everything to its end; in order of submission."""
    outputs: dict[str, list[StepOutput]] = {}
    coming = list(arrivals)
    while coming or engine.has_work():
        for request in coming.pop(0) if coming else ():
            outputs[request.request_id] = []
            engine.submit(request)
        for output in engine.step():
            outputs[output.request_id].append(output)
    return [written(of_one) for of_one in outputs.values()]
