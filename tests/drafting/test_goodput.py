"""What is faster by the clock is done, and the other ever more rarely tried."""

from __future__ import annotations

import pytest

from drafting.goodput import Goodput


class Server:
    """Steps of a fixed load: so many tokens and seconds with drafts, and without."""

    def __init__(self, load, drafted, plain):
        self.load, self.drafted, self.plain = load, drafted, plain
        self.goodput, self.now = Goodput(), 0.0

    def run(self, steps, load=None):
        """The share of steps that drafted."""
        count = 0
        for _ in range(steps):
            drafting = self.goodput.begin(load or self.load, self.now)
            tokens, seconds = self.drafted if drafting else self.plain
            self.goodput.earn(tokens)
            self.now += seconds
            count += drafting
        return count / steps


@pytest.mark.parametrize("load", [4, 8, 16, 32, 100])
def test_what_is_slower_is_given_up(load):
    server = Server(load, drafted=(20, 3.0), plain=(10, 1.0))
    server.run(100)
    assert server.run(2000) < 0.02


@pytest.mark.parametrize("load", [4, 8, 16, 32])
def test_what_is_faster_is_kept(load):
    server = Server(load, drafted=(20, 1.5), plain=(10, 1.0))
    server.run(100)
    assert server.run(2000) > 0.98


def test_no_gain_is_no_reason_to_draft():
    server = Server(8, drafted=(20, 1.99), plain=(10, 1.0))
    assert server.run(2000) < 0.05


@pytest.mark.parametrize("load", [1, 2, 3])
def test_few_requests_are_left_to_their_own_record(load):
    assert Server(load, drafted=(1, 3.0), plain=(1, 1.0)).run(500) == 1.0


def test_a_change_is_noticed_both_ways():
    server = Server(8, drafted=(20, 3.0), plain=(10, 1.0))
    server.run(3000)
    server.drafted = (30, 1.0)
    server.run(1200)
    assert server.run(1000) > 0.9
    server.drafted = (10, 3.0)
    server.run(1200)
    assert server.run(1000) < 0.1


def test_loads_are_judged_apart():
    server = Server(32, drafted=(20, 3.0), plain=(10, 1.0))
    server.run(2000)
    server.drafted = (20, 1.5)
    assert server.run(400, load=8) > 0.9
    server.drafted = (20, 3.0)
    assert server.run(400) < 0.1


def test_time_in_which_nobody_was_there_counts_for_nobody():
    server = Server(8, drafted=(20, 1.5), plain=(10, 1.0))
    for _ in range(60):
        server.run(20)
        server.now += 1000.0
    assert server.run(500) > 0.9
