"""Outcomes of one split as a table: a row for each prompt, a column for each tier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_model.errors import OutcomeError, SplitMismatch
from router_model.outcomes import Outcome, Split
from router_model.request_text import Request


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeTable:
    """Prompts that every tier answered, all of one split.

    ``outcomes``: a row for each prompt, each row in the order of ``tiers`` (cheapest first).
    """

    split: Split
    tiers: tuple[str, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def requests(self) -> list[Request]:
        """The prompts, (N,)."""
        return [row[0].request for row in self.outcomes]

    @property
    def families(self) -> NDArray[np.str_]:
        """(N,) names of families, empty where none is given."""
        return np.array([row[0].family or "" for row in self.outcomes], dtype=np.str_)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(N,) digests of the prompts."""
        return np.array([row[0].digest for row in self.outcomes], dtype=np.uint64)

    def correct(self) -> NDArray[np.bool_]:
        """(N, tiers): whose answer was right."""
        return np.array([[each.correct for each in row] for row in self.outcomes], dtype=np.bool_)

    def tokens(self) -> NDArray[np.float64]:
        """(N, tiers): tokens of the answers; unknown lengths are estimated from the text."""
        return np.array([[_tokens(each) for each in row] for row in self.outcomes], np.float64)

    def column(self, tier: str) -> list[Outcome]:
        """(N,) outcomes of one tier."""
        place = self.tiers.index(tier)
        return [row[place] for row in self.outcomes]

    def fingerprints(self) -> dict[str, str]:
        """The one fingerprint of each tier that gave any. OutcomeError if a tier shows several."""
        found: dict[str, str] = {}
        for tier in self.tiers:
            seen = {each.fingerprint for each in self.column(tier) if each.fingerprint}
            if len(seen) > 1:
                raise OutcomeError(f"fingerprint of {tier!r}: got {sorted(seen)}, expected one")
            if seen:
                found[tier] = seen.pop()
        return found

    def require(self, split: Split) -> None:
        """Raise SplitMismatch unless this table is of that split."""
        if self.split != split:
            raise SplitMismatch(f"outcomes of split: got {self.split!r}, expected {split!r}")

    def require_unseen(self, trained_on: NDArray[np.uint64]) -> None:
        """Raise SplitMismatch if any of its prompts is among ``trained_on``."""
        shared = int(np.isin(self.digests, trained_on).sum())
        if shared:
            raise SplitMismatch(
                f"got {shared} of {len(self)} prompts that the model was trained on, expected none"
            )


def _tokens(outcome: Outcome) -> float:
    if outcome.tokens is not None:
        return float(outcome.tokens)
    return float(len(outcome.logprobs or ()) or 1 + len(outcome.answer) // 3)


def table_of(
    outcomes: Iterable[Outcome], split: Split, tiers: Sequence[str], *, limit: int | None = None
) -> OutcomeTable:
    """The prompts of ``split`` that all ``tiers`` answered, in order of first appearance.

    Of several outcomes of one prompt and tier the last counts.

    Raises:
        OutcomeError: no such prompt.
        SplitMismatch: one prompt appears in this split and in another.
    """
    rows: dict[int, dict[str, Outcome]] = {}
    elsewhere: set[int] = set()
    for outcome in outcomes:
        if outcome.split != split:
            elsewhere.add(outcome.digest)
        else:
            rows.setdefault(outcome.digest, {})[outcome.tier] = outcome
    if both := len(elsewhere & rows.keys()):
        raise SplitMismatch(f"got {both} prompts in {split!r} and another split, expected none")
    whole = [tuple(row[tier] for tier in tiers) for row in rows.values() if row.keys() >= {*tiers}]
    if not whole:
        raise OutcomeError(f"got no prompt of split {split!r} answered by all of {list(tiers)}")
    return OutcomeTable(split, tuple(tiers), tuple(whole[:limit]))
