"""The cost of a forward is what was measured, and follows the machine slowly."""

from __future__ import annotations

import math
import random

import pytest

from drafting.cost import Load, Pace, Sample, StepCost, fit


def test_measured_points_are_given_back_and_joined_by_lines():
    cost = StepCost([(8, 2.0), (1, 1.0), (16, 4.0)])
    assert [cost(1), cost(8), cost(16)] == [1.0, 2.0, 4.0]
    assert cost(12) == pytest.approx(3.0)


def test_beyond_the_last_point_the_trend_goes_on():
    assert StepCost([(1, 1.0), (8, 1.0), (16, 2.0)])(32) == pytest.approx(4.0)


def test_a_single_point_is_taken_as_proportional_beyond():
    assert StepCost([(4, 1.0)])(8) == pytest.approx(2.0)


def test_more_rows_never_cost_less_and_a_disturbed_point_counts_for_little():
    cost = StepCost([(1, 2.0), (8, 1.0), (16, 3.0)])
    found = [cost(rows) for rows in range(1, 40)]
    assert found == sorted(found)
    assert cost(1) == 1.0  # more rows were cheaper, so something else was going on


def test_requests_and_contexts_cost_on_top():
    cost = StepCost([(1, 1.0), (9, 2.0)], per_request=0.1, per_context=0.01, per_pair=0.001)
    assert cost(5, 3, 100.0, 200.0) == pytest.approx(1.5 + 0.2 + 1.0 + 0.2)


def test_what_rows_add_is_the_difference_of_two_steps():
    cost = StepCost([(1, 1.0), (8, 2.0), (16, 4.0)], per_pair=0.001)
    assert cost.added(4, 8, 50.0) == pytest.approx(cost(12, 1, 0, 12 * 50) - cost(4, 1, 0, 4 * 50))
    assert cost.growth(4, 8, 50.0)[8] == pytest.approx(cost.added(4, 8, 50.0))
    assert cost.growth(4, 8, 50.0)[0] == 0.0


def test_a_part_that_was_measured_wrong_is_corrected():
    truth = StepCost([(1, 1.0), (8, 3.0), (64, 20.0)])
    cost = StepCost([(1, 1.0), (8, 1.5), (64, 5.75)])  # each further row thought four times cheaper
    for _ in range(400):
        for rows in (1, 5, 20):
            cost.observe(Load(rows), truth(rows))
    assert cost(20) / cost(1) == pytest.approx(truth(20) / truth(1), rel=0.05)


def test_load_changes_the_pace_and_not_the_shape():
    truth = StepCost([(1, 1.0), (8, 2.0), (16, 4.0)])
    cost, rng = StepCost([(1, 1.0), (8, 2.0), (16, 4.0)]), random.Random(3)
    for _ in range(200):  # bursts, each while steps of one size are running
        rows, load = rng.choice((1, 8, 16)), rng.choice((1.0, 1.0, 5.0))
        for _ in range(10):
            cost.observe(Load(rows), load * truth(rows))
        assert cost(8) / cost(1) == pytest.approx(2.0, rel=0.4)
        assert cost(16) / cost(1) == pytest.approx(4.0, rel=0.4)


def test_models_of_one_machine_share_its_pace():
    pace = Pace()
    target, draft = StepCost([(1, 4.0)], pace=pace), StepCost([(1, 1.0)], pace=pace)
    for _ in range(30):
        target.observe(Load(1), 12.0)
    assert pace.standard(12.0) == pytest.approx(4.0, rel=0.3)
    assert draft(1) == 1.0
    for _ in range(30):
        target.observe(Load(1), 12.0)
        draft.observe(Load(1), 3.0)  # slowed down as much
    assert target(1) / draft(1) == pytest.approx(4.0, rel=0.1)


def test_a_draft_that_was_measured_under_load_becomes_as_cheap_as_it_is():
    pace = Pace()
    target, draft = StepCost([(1, 4.0)], pace=pace), StepCost([(1, 5.0)], pace=pace)
    for _ in range(100):
        target.observe(Load(1), 4.0)
        draft.observe(Load(1), 1.0)
    assert target(1) / draft(1) == pytest.approx(4.0, rel=0.2)


def test_one_slow_step_moves_little():
    cost = StepCost([(1, 1.0), (8, 2.0)])
    for _ in range(200):
        cost.observe(Load(8), 2.0)
    cost.observe(Load(8), 1000.0)
    assert cost(8) / cost(1) <= 2.0 * 1.06


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_meaningless_measurement_is_ignored(seconds):
    cost = StepCost([(1, 1.0)])
    cost.observe(Load(1), seconds)
    assert cost(1) == 1.0
    assert cost.pace.log == 0.0


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(1, 0.0)], [(1, math.nan)], [(1, math.inf)]])
def test_points_that_are_no_measurement_are_refused(points):
    with pytest.raises(ValueError, match="expected"):
        StepCost(points)


def test_negative_parts_are_refused():
    with pytest.raises(ValueError, match="expected 0 or more"):
        StepCost([(1, 1.0)], per_request=-0.1)


def test_measurements_at_start_tell_the_parts_apart():
    truth = StepCost([(1, 1.0), (16, 4.0)], per_request=0.2, per_context=1e-3, per_pair=1e-4)
    loads = [Load(rows, 1, 0.0, 0.0) for rows in (1, 4, 16)]
    loads += [Load(8, 8, 0.0, 0.0), Load(1, 1, 1000.0, 1000.0), Load(16, 1, 1000.0, 16000.0)]
    cost = fit([Sample(load, truth(*load)) for load in loads])
    for load in (Load(12, 4, 400.0, 1200.0), Load(3, 1, 50.0, 150.0)):
        assert cost(*load) == pytest.approx(truth(*load))


def test_measurements_of_no_single_request_are_refused():
    with pytest.raises(ValueError, match="single request"):
        fit([Sample(Load(8, 8), 1.0)])
