"""Margins say how far a decision was from another one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from verifier.margin import NARROW, decision_margin, relative_margin, top_gap


def test_the_gap_is_to_the_second_best_on_either_side():
    assert top_gap(np.array([1.0, 5.0, 4.5]), 1) == 0.5
    assert top_gap(np.array([4.0, 5.0, 1.0]), 1) == 1.0
    assert top_gap(np.array([5.0, 1.0]), 0) == 4.0


def test_a_tie_has_no_gap():
    assert top_gap(np.array([2.0, 2.0]), 0) == 0.0


def test_a_lone_token_has_no_rival():
    assert top_gap(np.array([2.0]), 0) == math.inf


def test_the_nearest_of_gap_and_boundary_counts():
    assert decision_margin(0.5, 0.25, 1.0) == 0.25
    assert decision_margin(0.125, 0.25, 0.0) == 0.125


def test_a_low_temperature_stretches_no_margin():
    assert decision_margin(1.0, math.inf, 0.25) == 0.25
    assert decision_margin(1.0, math.inf, 4.0) == 1.0


@pytest.mark.parametrize("penalty", [4.0, 0.25])
def test_a_repetition_penalty_stretches_no_margin(penalty):
    assert decision_margin(1.0, math.inf, 1.0, penalty) == 0.25
    assert decision_margin(1.0, math.inf, 0.0, penalty) == 0.25


def test_half_precision_judges_a_margin_by_the_size_of_the_logits():
    assert relative_margin(0.5, 64.0) == relative_margin(0.5, -64.0) == 2.0**-7
    assert relative_margin(0.5, 0.25) == 0.5
    assert {name: narrow.relative for name, narrow in NARROW.items()} == {
        "float32": False, "bfloat16": True, "float16": True, "int8": True,
    }  # fmt: skip
