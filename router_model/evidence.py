"""What is known of an answer once it is generated, and the numbers the judge reads from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from router_model.classifier import Reading
from router_model.features import Floats

_WORD = re.compile(r"\w+")
_FLOOR = -20.0
_QUANTILES = (0.02, 0.05, 0.1, 0.25, 0.5)

LOGPROB_NAMES: tuple[str, ...] = (
    "logprob_sum",
    "logprob_mean",
    "logprob_min",
    "logprob_second_min",
    "logprob_first",
    "logprob_last",
    "below_0.1",
    "below_0.5",
    "below_1",
    "min_place",
    *(f"logprob_q{share}" for share in _QUANTILES),
    "margin_min",
    "margin_q0.1",
    "margin_mean",
    "margins_below_1",
)
ANSWER_NAMES: tuple[str, ...] = (
    "chance",
    "chance_best",
    "expected_tokens",
    "tokens",
    "tokens_over_expected",
    "stopped",
    "chars",
    "lines",
    "words",
    "distinct_share",
    "longest_repeat",
    "words_from_request",
    "request_words_used",
    "numbers_share",
    "bracket_balance",
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AnswerEvidence:
    """One tier's answer to one request, as far as it is known.

    ``logprobs``: natural log-prob of each token, None from a server that gives none.
    ``margins``: log-prob of each step's likeliest token less the second's, None if unknown.
    ``finish_reason``: OpenAI's ("stop", "length"), None if unknown.
    ``tokens``: length of the answer, estimated from its text when None and without log-probs.
    """

    tier: str
    reading: Reading
    answer: str
    logprobs: tuple[float, ...] | None = None
    margins: tuple[float, ...] | None = None
    finish_reason: str | None = None
    tokens: int | None = None

    @classmethod
    def from_entries(
        cls,
        *,
        tier: str,
        reading: Reading,
        answer: str,
        entries: Sequence[Mapping[str, Any]] | None,
        finish_reason: str | None = None,
        tokens: int | None = None,
    ) -> AnswerEvidence:
        """From entries of OpenAI's chat ``logprobs.content`` (``logprob``, ``top_logprobs``)."""
        logprobs = logprobs_of(entries)
        return cls(
            tier=tier,
            reading=reading,
            answer=answer,
            logprobs=logprobs,
            margins=margins_of(entries) if logprobs else None,
            finish_reason=finish_reason,
            tokens=tokens,
        )


def logprobs_of(entries: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...] | None:
    """Log-probs of OpenAI's entries, None when there are none or one of them is not a number."""
    found: list[Any] = [entry.get("logprob") for entry in entries or ()]
    return tuple(map(float, found)) if found and all(map(_is_number, found)) else None


def margins_of(entries: Sequence[Mapping[str, Any]] | None) -> tuple[float, ...] | None:
    """Gaps between the two likeliest tokens, None unless every entry names two."""
    tops = [_two_likeliest(entry) for entry in entries or ()]
    if not tops or not all(len(top) == 2 for top in tops):
        return None
    return tuple(top[0] - top[1] for top in tops)


def _two_likeliest(entry: Mapping[str, Any]) -> list[float]:
    found = [top.get("logprob") for top in entry.get("top_logprobs") or ()]
    return sorted((float(each) for each in found if _is_number(each)), reverse=True)[:2]


def _is_number(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and not math.isnan(found)


def confidence_numbers(evidence: AnswerEvidence) -> Floats:
    """(len(LOGPROB_NAMES),) numbers from log-probs; -1 stands for margins that are unknown."""
    logprobs = np.maximum(np.array(evidence.logprobs or (_FLOOR,), dtype=np.float64), _FLOOR)
    ranked = np.sort(logprobs)
    values = [
        logprobs.sum(),
        logprobs.mean(),
        ranked[0],
        ranked[min(1, len(ranked) - 1)],
        logprobs[0],
        logprobs[-1],
        np.searchsorted(ranked, -0.1),
        np.searchsorted(ranked, -0.5),
        np.searchsorted(ranked, -1.0),
        logprobs.argmin() / len(logprobs),
        *(ranked[int(share * (len(ranked) - 1))] for share in _QUANTILES),
        *_margin_numbers(evidence.margins),
    ]
    return np.array(values, dtype=np.float64)


def _margin_numbers(margins: tuple[float, ...] | None) -> tuple[float, ...]:
    if not margins:
        return (-1.0, -1.0, -1.0, -1.0)
    ranked = np.sort(np.minimum(np.array(margins, dtype=np.float64), -_FLOOR))
    lowest_tenth = ranked[int(0.1 * (len(ranked) - 1))]
    return ranked[0], lowest_tenth, ranked.mean(), float(np.searchsorted(ranked, 1.0))


def answer_numbers(evidence: AnswerEvidence) -> Floats:
    """(len(ANSWER_NAMES),) numbers from the answer's text and the router's reading."""
    reading, answer = evidence.reading, evidence.answer
    tokens = _token_count(evidence)
    words = _WORD.findall(answer.lower())
    distinct = set(words)
    known = distinct & reading.words
    values = (
        reading.probabilities.get(evidence.tier, 0.0),
        max(reading.probabilities.values()),
        reading.expected_tokens,
        tokens,
        tokens / (1.0 + reading.expected_tokens),
        _STOPPED.get(evidence.finish_reason, 0.0),
        len(answer),
        answer.count("\n") + 1,
        len(words),
        len(distinct) / max(1, len(words)),
        _longest_repeat(words),
        len(known) / max(1, len(distinct)),
        len(known) / max(1, len(reading.words)),
        sum(map(str.isdigit, words)) / max(1, len(words)),
        answer.count("{") + answer.count("[") - answer.count("}") - answer.count("]"),
    )
    return np.array(values, dtype=np.float64)


_STOPPED: Mapping[str | None, float] = {"stop": 1.0, "length": -1.0}


def _token_count(evidence: AnswerEvidence) -> int:
    if evidence.tokens is not None:
        return evidence.tokens
    return len(evidence.logprobs or ()) or 1 + len(evidence.answer) // 3


def _longest_repeat(words: list[str]) -> int:
    longest = run = 0
    for before, word in pairwise(words):
        run = run + 1 if before == word else 0
        longest = max(longest, run)
    return longest
