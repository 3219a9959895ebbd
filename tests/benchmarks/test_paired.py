"""Pairs are interleaved, and the interval of a ratio is about that ratio."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.paired import (
    Pairs,
    Rounds,
    Run,
    as_pairs,
    estimate,
    fastest,
    interleave,
    inverse,
    middle,
    ratio_of_sums,
    speed_up,
    tokens_per_second,
)


def noisy(ratio: float, *, rounds: int = 15, noise: float = 0.1, seed: int = 1) -> Pairs:
    """Side `fast` is `ratio` times as fast as `slow`, on four units; both are noisy."""
    rng = np.random.default_rng(seed)
    weights = np.array([10.0, 20.0, 5.0, 100.0])
    slow = 0.01 * (1 + noise * rng.random((rounds, 4)))
    fast = 0.01 / ratio * (1 + noise * rng.random((rounds, 4)))
    return Pairs({"slow": slow, "fast": fast}, weights)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.2])
def test_the_interval_of_a_ratio_holds_the_true_one(ratio: float) -> None:
    found = speed_up([noisy(ratio)], base="slow", ours="fast")
    assert found.low < found.value < found.high
    assert found.low <= ratio * 1.02 and found.high >= ratio * 0.98
    assert found.high - found.low < 0.15 * ratio


def test_a_spike_in_one_repeat_moves_nothing() -> None:
    calm, spiked = noisy(2.0), noisy(2.0)
    spiked.costs["fast"][3] *= 50
    before = speed_up([calm], base="slow", ours="fast").value
    assert speed_up([spiked], base="slow", ours="fast").value == pytest.approx(before, rel=0.05)


def test_groups_add_up_by_their_seconds() -> None:
    """A group of twice the tokens has twice the say."""
    one, two = noisy(1.0, noise=0.0), noisy(4.0, noise=0.0)
    both = speed_up([one, two], base="slow", ours="fast").value
    assert both == pytest.approx(2 / (1 + 1 / 4))
    scaled = two.only(range(4), scale=2.0)
    assert speed_up([one, scaled], base="slow", ours="fast").value == pytest.approx(3 / 1.5)
    assert tokens_per_second([one, two], "slow") == pytest.approx(100.0)


def test_units_can_be_looked_at_alone() -> None:
    pairs = as_pairs({"a": [[Run(1.0, 2), Run(9.0, 3)]], "b": [[Run(2.0, 2), Run(3.0, 3)]]})
    assert pairs.only([0]).total("a") == pytest.approx(1.0)
    assert speed_up([pairs.only([1])], base="a", ours="b").value == pytest.approx(3.0)


def test_sides_take_turns_at_being_first_on_every_unit() -> None:
    order: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], Run]:
        def run(unit: int) -> Run:
            order.append((name, unit))
            return Run(1.0)

        return run

    interleave({name: side(name) for name in "ab"}, [0, 1], Rounds(2, 2, 0.0))
    assert order == [
        ("a", 0), ("b", 0), ("b", 1), ("a", 1),
        ("b", 0), ("a", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip


def test_repeats_end_with_the_budget_but_not_before_the_least() -> None:
    def run(_: int) -> Run:
        return Run(1.0)

    assert interleave({"a": run}, [0], Rounds(3, 50, 0.0)).rounds == 3
    assert interleave({"a": run}, [0], Rounds(1, 7, 60.0)).rounds == 7


def test_the_best_baseline_is_the_fastest() -> None:
    assert fastest([noisy(3.0)], ["slow", "fast"]) == "fast"


def test_an_inverse_keeps_its_interval_in_order() -> None:
    turned = inverse(speed_up([noisy(4.0)], base="slow", ours="fast"))
    assert turned.low < turned.value < turned.high
    assert turned.value == pytest.approx(0.25, rel=0.05)


def test_medians_and_ratios_of_counts_come_with_intervals() -> None:
    assert middle([1.0, 5.0, 2.0]).value == 2.0
    found = estimate(ratio_of_sums([4, 9, 8], [2, 3, 4]))
    assert found.value == pytest.approx(21 / 9)
    assert 2.0 <= found.low <= found.value <= found.high <= 3.0
