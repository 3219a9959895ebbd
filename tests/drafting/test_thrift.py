"""Speculation pays at every load, stops where it does not, and comes back when it does again."""

from __future__ import annotations

import pytest

from drafting.cost import StepCost

OFF, AUTO = "off", "auto"


@pytest.mark.parametrize("load", [1, 2, 4, 8, 12, 16, 24, 32])
def test_speculation_is_never_slower_than_none_and_faster_where_drafts_are_good(machine, load):
    server = machine()
    server.serve([AUTO] * load, 40)
    auto, _ = server.serve([AUTO] * load, 150)
    off, _ = server.serve([OFF] * load, 150)
    comparing = 0.02 if load >= 4 else 0.005  # both ways are tried in turn, to tell by the clock
    assert off >= (1.0 - comparing) * auto
    if load <= 8:
        assert off >= 1.3 * auto
    if load == 1:
        assert off >= 1.75 * auto  # 1.87 is the best there can be


@pytest.mark.parametrize("load", [1, 8, 32])
def test_a_draft_model_that_is_never_right_costs_next_to_nothing(machine, load):
    server = machine(skill=0.0)
    server.serve([AUTO] * load, 100)
    auto, _ = server.serve([AUTO] * load, 400)
    off, _ = server.serve([OFF] * load, 400)
    assert off >= 0.98 * auto


def test_requests_with_and_without_speculation_may_take_turns(machine):
    server = machine()
    _, alone = server.serve([AUTO])
    for _ in range(20):
        server.serve([OFF])
        _, accepted = server.serve([AUTO])
    assert accepted >= 0.9 * alone > 4


def test_requests_with_and_without_speculation_may_share_a_batch(machine):
    server = machine()
    mixed, accepted = server.serve([AUTO, OFF, AUTO, OFF])
    off, _ = server.serve([OFF] * 4)
    assert accepted > 3
    assert mixed < 1.1 * off  # the plain ones wait for longer steps, but for fewer


@pytest.mark.parametrize("busy", [1.0, 4.0])
def test_a_burst_of_load_leaves_no_trace(machine, busy):
    server = machine()
    for _ in range(6):
        before, _ = server.serve([AUTO])
    for _ in range(5):
        server.busy = busy
        server.serve([AUTO] * 16)
        server.serve([OFF] * 12)
        server.busy = 1.0
        after, accepted = server.serve([AUTO])
        assert after < 1.1 * before
        assert accepted > 4


@pytest.mark.parametrize("draft", [0.2, 5.0])
@pytest.mark.parametrize("rows", [0.3, 3.0])
def test_costs_that_were_measured_wrong_at_start_are_found_out(machine, draft, rows):
    curve = [(1, 1.2), (8, 1.2 + rows), (64, 1.2 + 8 * rows)]
    server = machine(
        believed_target=StepCost(curve),
        believed_draft=StepCost([(1, 0.35 * draft), (64, 2.2 * draft)]),
    )
    for _ in range(60):
        server.serve([AUTO])
    auto, _ = server.serve([AUTO], 200)
    off, _ = server.serve([OFF], 200)
    assert off >= 1.7 * auto


def test_a_draft_model_that_becomes_good_again_is_used_again(machine):
    server = machine(skill=0.0)
    for _ in range(10):
        server.serve([AUTO], 200)
    _, useless = server.serve([AUTO], 200)
    server.skill = 0.97
    _, first = server.serve([AUTO], 400)
    _, later = server.serve([AUTO], 400)
    assert useless < 0.1
    assert first > 0.5
    assert later > 4.0


def test_short_answers_do_not_pay_for_reading_a_long_prompt(machine):
    server = machine()
    server.serve([AUTO])
    forwards = server.forwards
    server.serve([AUTO], 3, start=1)
    assert server.forwards - forwards <= 3
