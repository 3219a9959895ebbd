"""What a step costs on this machine by what it carries: measured at start, corrected while running.

Two things change what a step takes: how busy the machine is, quickly and for every model alike, and
what was never measured well, slowly and for each model. They are told apart by one filter, so that
a burst of load does not pass for a change in what rows cost against one another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

_NOISE: Final = 0.05  # variance of one measurement's logarithm
_RESTLESS: Final = 0.05  # variance the machine's pace gains with each measurement
_DRIFT: Final = 5e-5  # variance a part of a cost gains with each measurement of any model
_UNSURE: Final = 0.1  # the most it gains, and what it begins with
_JUMP: Final = 1.0  # the pace takes a logarithm further off than this as this far
_SURPRISE: Final = 0.2  # a well-known part does so from here: what jumps is the machine
_LEAST_REQUEST: Final = 0.03  # of a single row's step: to serve one more request is never free


class Load(NamedTuple):
    """What one forward carries."""

    rows: int
    requests: int = 1
    context: float = 0.0  # committed tokens, over all requests
    pairs: float = 0.0  # rows times the context each of them sees


class Sample(NamedTuple):
    """One measurement at start."""

    load: Load
    seconds: float


class Pace:
    """How much slower the machine is than at start: the logarithm all costs of it have in common.

    Share one between the models of a machine.
    """

    __slots__ = ("log", "ticks", "variance")

    def __init__(self) -> None:
        self.log = 0.0
        self.variance = 1.0
        self.ticks = 0

    def standard(self, seconds: float) -> float:
        """Measured ``seconds`` as those of the machine at start."""
        return seconds * math.exp(-self.log)

    def actual(self, seconds: float) -> float:
        """Seconds of the machine at start as those it would take now."""
        return seconds * math.exp(self.log)


class StepCost:
    """Seconds of one step at the machine's pace of start, as a sum of five parts.

    One row; more rows, along a measured curve; more requests; their contexts; rows times contexts.
    """

    def __init__(
        self,
        points: Sequence[tuple[int, float]],
        *,
        per_request: float = 0.0,
        per_context: float = 0.0,
        per_pair: float = 0.0,
        pace: Pace | None = None,
    ) -> None:
        """``points``: (rows, seconds) of one request, at least one, in any order; the others are
        seconds for one more request, context token, and pair of a row and a context token.

        Raises:
            ValueError: no point, one that is not positive and finite, or a negative part.
        """
        self._curve = _Curve(points)
        for part in (per_request, per_context, per_pair):
            if not 0.0 <= part < math.inf:
                raise ValueError(f"got a part of {part} seconds; expected 0 or more, finite")
        self.pace = pace or Pace()
        self._units = (per_request, per_context, per_pair)
        self._log = [0.0] * 5  # corrections of the parts
        self._factors = [1.0] * 5
        self._variance = [_UNSURE] * 5
        self._ticks = self.pace.ticks

    def __call__(
        self, rows: int, requests: int = 1, context: float = 0.0, pairs: float = 0.0
    ) -> float:
        """Seconds that a step with such a load is expected to take at the pace of start."""
        return sum(self._parts(Load(rows, requests, context, pairs)))

    def scaled(self, factor: float) -> StepCost:
        """A cost of its own that begins as this one times ``factor``, at the same pace."""
        request, context, pair = (unit * factor for unit in self._units)
        return StepCost(
            [(int(rows), seconds * factor) for rows, seconds in self._curve.points],
            per_request=request,
            per_context=context,
            per_pair=pair,
            pace=self.pace,
        )

    def growth(self, rows: int, more: int, context: float) -> list[float]:
        """What 0, 1, ... ``more`` rows cost on top of ``rows``, each over ``context`` tokens."""
        curve, factor = self._curve, self._factors[1]
        pair = self._units[2] * self._factors[4] * context
        start = curve(rows)
        return [factor * (curve(rows + n) - start) + n * pair for n in range(more + 1)]

    def added(self, rows: int, more: int, context: float) -> float:
        """What ``more`` rows cost on top of ``rows``, each over ``context`` tokens."""
        pair = self._units[2] * self._factors[4] * context
        return self._factors[1] * (self._curve(rows + more) - self._curve(rows)) + more * pair

    def observe(self, load: Load, seconds: float) -> None:
        """Learn from one step; meaningless ``seconds`` are ignored."""
        if load.rows < 1 or not 0.0 < seconds < math.inf:
            return
        parts = self._parts(load)
        total = sum(parts)
        pace, shares = self.pace, [part / total for part in parts]
        self._age()
        own = [share * variance for share, variance in zip(shares, self._variance, strict=True)]
        doubt = sum(share * part for share, part in zip(shares, own, strict=True))
        spread = doubt + pace.variance + _NOISE
        error = math.log(seconds / total) - pace.log
        pace.log += pace.variance * _within(error, _JUMP) / spread
        error = _within(error, max(_SURPRISE, 2.0 * math.sqrt(doubt))) / spread
        pace.variance -= pace.variance**2 / spread
        for part, gain in enumerate(own):
            self._log[part] += gain * error
            self._variance[part] -= gain**2 / spread
        self._factors = [math.exp(log) for log in self._log]

    def _age(self) -> None:
        """What was not measured for long is less sure."""
        pace = self.pace
        pace.ticks += 1
        pace.variance += _RESTLESS
        drift = _DRIFT * (pace.ticks - self._ticks)
        self._ticks = pace.ticks
        self._variance = [min(variance + drift, _UNSURE) for variance in self._variance]

    def _parts(self, load: Load) -> list[float]:
        first, factors, units = self._curve.first, self._factors, self._units
        return [
            factors[0] * first,
            factors[1] * (self._curve(load.rows) - first),
            factors[2] * units[0] * (load.requests - 1),
            factors[3] * units[1] * load.context,
            factors[4] * units[2] * load.pairs,
        ]


def _within(value: float, most: float) -> float:
    return min(max(value, -most), most)


class _Curve:
    """Seconds by rows: lines between measured points, never falling, going on as the last one.

    Disturbances only ever add, so a point counts at most as much as those beyond it.
    """

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        if not points:
            raise ValueError("got no points; expected at least one (rows, seconds)")
        for rows, seconds in points:
            if rows < 1 or not 0.0 < seconds < math.inf:
                raise ValueError(f"got point {(rows, seconds)}; expected both positive and finite")
        self.points = [(float(rows), seconds) for rows, seconds in sorted(points)]
        for place in range(len(self.points) - 2, -1, -1):
            at, seconds = self.points[place]
            self.points[place] = at, min(seconds, self.points[place + 1][1])
        self._known: list[float] = [0.0]  # by rows
        self.first = self(1)

    def __call__(self, rows: int) -> float:
        known = self._known
        while rows >= len(known):
            known.append(self._at(len(known)))
        return known[rows]

    def _at(self, rows: int) -> float:
        points = self.points
        if rows <= points[0][0]:
            return points[0][1]
        if len(points) == 1:
            return points[0][1] * rows / points[0][0]
        place = min(bisect_right(points, (rows, math.inf)), len(points) - 1)
        (low, below), (high, above) = points[place - 1], points[place]
        return below + (above - below) * (rows - low) / (high - low)


def fit(samples: Sequence[Sample], *, pace: Pace | None = None) -> StepCost:
    """The cost of a model from measurements at start.

    Those of one request and the smallest context make the curve; of the others, the ones with
    more requests tell what a request costs, those with more context what context costs.

    Raises:
        ValueError: none of them is of one request.
    """
    alone = [sample for sample in samples if sample.load.requests == 1]
    if not alone:
        raise ValueError("got no measurement of a single request; expected at least one")
    least = min(sample.load.context for sample in alone)
    points = [(s.load.rows, s.seconds) for s in alone if s.load.context == least]
    curve = _Curve(points)
    per_pair, per_context = _slopes(curve, [s for s in alone if s.load.context > least], least)
    crowds = [sample for sample in samples if sample.load.requests > 1]
    shared = [
        (sample.seconds - curve(sample.load.rows)) / (sample.load.requests - 1) for sample in crowds
    ]
    per_request = max(sum(shared) / len(shared), 0.0) if shared else 0.0
    per_request = max(per_request, _LEAST_REQUEST * curve.first)
    return StepCost(
        points, per_request=per_request, per_context=per_context, per_pair=per_pair, pace=pace
    )


def _slopes(curve: _Curve, longer: Sequence[Sample], least: float) -> tuple[float, float]:
    """Seconds for each pair of row and context token, and for each context token."""
    if not longer:
        return 0.0, 0.0
    by_rows = {
        sample.load.rows: max(sample.seconds - curve(sample.load.rows), 0.0)
        / (sample.load.context - least)
        for sample in longer
    }
    few, many = min(by_rows), max(by_rows)
    if few == many:
        return 0.0, by_rows[few]
    per_pair = max(by_rows[many] - by_rows[few], 0.0) / (many - few)
    return per_pair, max(by_rows[few] - few * per_pair, 0.0)
