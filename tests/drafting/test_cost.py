"""The cost of a forward is what was measured, and follows the machine slowly."""

from __future__ import annotations

import math

import pytest

from drafting.cost import StepCost


def test_measured_points_are_given_back_and_joined_by_lines():
    cost = StepCost([(8, 2.0), (1, 1.0), (16, 4.0)])
    assert [cost(1), cost(8), cost(16)] == [1.0, 2.0, 4.0]
    assert cost(12) == pytest.approx(3.0)


def test_beyond_the_last_point_the_trend_goes_on():
    assert StepCost([(1, 1.0), (8, 1.0), (16, 2.0)])(32) == pytest.approx(4.0)


def test_a_single_point_is_taken_as_proportional_beyond():
    assert StepCost([(4, 1.0)])(8) == pytest.approx(2.0)


def test_more_rows_never_cost_less():
    cost = StepCost([(1, 2.0), (8, 1.0), (16, 3.0)])
    found = cost.many(range(1, 40)).tolist()
    assert found == sorted(found)


def test_measurements_move_the_cost_towards_them():
    cost = StepCost([(1, 1.0), (8, 2.0), (16, 4.0)])
    for _ in range(300):
        cost.observe(8, 3.0)
    assert cost(8) == pytest.approx(3.0, rel=0.01)
    assert cost(16) == 4.0


def test_one_slow_step_moves_little():
    cost = StepCost([(1, 1.0), (8, 2.0)])
    cost.observe(8, 1000.0)
    assert cost(8) <= 2.0 * 1.06


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_meaningless_measurement_is_ignored(seconds):
    cost = StepCost([(1, 1.0)])
    cost.observe(1, seconds)
    assert cost(1) == 1.0


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(1, 0.0)], [(1, math.nan)], [(1, math.inf)]])
def test_points_that_are_no_measurement_are_refused(points):
    with pytest.raises(ValueError, match="expected"):
        StepCost(points)
