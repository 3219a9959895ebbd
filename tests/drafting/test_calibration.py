"""Claims are corrected by what was really accepted."""

from __future__ import annotations

import random

import pytest

from drafting.calibration import Calibration, Outlook, bucket_of, learn, node_probs
from drafting.merge import chain
from drafting.tree import ROOT, DraftTree

A, B = frozenset("a"), frozenset("b")


def test_before_evidence_a_claim_is_believed():
    calibration = Calibration()
    assert calibration.rate(A, bucket_of(0.1)) < calibration.rate(A, bucket_of(0.9))
    assert calibration.rate(A, bucket_of(0.9)) == pytest.approx(0.9, abs=0.07)


def test_the_rate_becomes_what_happens_whatever_was_claimed():
    calibration, rng = Calibration(), random.Random(1)
    for _ in range(1000):
        calibration.observe(A, bucket_of(0.9), rng.random() < 0.3)
    assert calibration.rate(A, bucket_of(0.9)) == pytest.approx(0.3, abs=0.1)


def test_old_outcomes_fade():
    calibration = Calibration()
    for hit, times in ((True, 2000), (False, 1000)):
        for _ in range(times):
            calibration.observe(A, 7, hit)
    assert calibration.rate(A, 7) < 0.05


def test_sources_that_agree_begin_with_the_better_ones_rate():
    calibration = Calibration()
    for _ in range(200):
        calibration.observe(A, 4, True)
        calibration.observe(B, 4, False)
    assert calibration.rate(A | B, 4) == pytest.approx(calibration.rate(A, 4), abs=0.01)


def test_a_request_that_does_worse_than_usual_is_expected_to_go_on_so():
    bad, good = Outlook(), Outlook()
    for _ in range(20):
        bad.observe(A, 0.5, False)
        good.observe(A, 0.5, True)
    assert bad.applied(A, 0.5) < 0.25
    assert good.applied(A, 0.5) > 0.75
    assert Outlook().applied(A, 0.5) == 0.5


def test_a_few_successes_in_a_row_make_no_certainty_of_what_is_nearly_one():
    outlook = Outlook()
    for _ in range(20):
        outlook.observe(A, 0.95, True)
    assert 0.95 < outlook.applied(A, 0.95) < 0.96


def test_siblings_share_at_most_one():
    tree = DraftTree((1, 2, 3, 4), (ROOT, ROOT, ROOT, 0), (A,) * 4, (0.9, 0.8, 0.7, 0.9))
    probs = node_probs(tree, Calibration(), Outlook())
    assert sum(probs[:3]) <= 1.0 + 1e-9
    assert probs[3] > 0.8


def test_only_nodes_whose_fate_is_known_are_learned_from():
    calibration, tree = Calibration(), chain([1, 2, 3], [0.9, 0.9, 0.9], "a")
    before = calibration.rate(A, bucket_of(0.9))
    learn(tree, [1, 5], calibration, Outlook())  # the first was right, the second wrong
    both = Calibration()
    both.observe(A, bucket_of(0.9), True)
    both.observe(A, bucket_of(0.9), False)
    assert calibration.rate(A, bucket_of(0.9)) == both.rate(A, bucket_of(0.9)) != before


def test_a_node_beyond_the_emitted_tokens_teaches_nothing():
    calibration, tree = Calibration(), chain([1, 2], [0.9, 0.1], "a")
    learn(tree, [1], calibration, Outlook())
    assert calibration.rate(A, bucket_of(0.1)) == Calibration().rate(A, bucket_of(0.1))
