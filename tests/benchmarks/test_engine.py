"""Every row of the engine's benchmark runs, and a figure that misses its bar is said to."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from benchmarks.engine.__main__ import ROWS, main
from benchmarks.engine.models import one_cycle
from benchmarks.engine.plot import plot, times_the_bar
from benchmarks.engine.prompts import Prompt, with_prediction
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.report import page
from benchmarks.engine.worker import WorkerFailed, process_worker
from benchmarks.paired import Estimate

Results = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Rows of a whole quick run, by name."""
    folder = tmp_path_factory.mktemp("results")
    main(["--quick", "--threads", "1", "--out", str(folder)])
    assert (folder / "engine.md").read_text().count("\n## ") == len(ROWS)
    xml.parse(folder / "engine.svg")
    written = json.loads((folder / "engine.json").read_text())
    assert written["machine"]["cores"] >= 1 and written["settings"]["threads"] == 1
    return {row["name"]: row for row in written["rows"]}


@pytest.mark.parametrize("name", list(ROWS))
def test_every_row_gives_figures_with_intervals_and_memory(name: str, results: Results) -> None:
    row = results[name]
    assert row["measures"] and row["peak_mib"]
    assert all(peak > 1 for peak in row["peak_mib"].values())
    for measure in row["measures"]:
        low, high = measure["interval"]
        assert math.isfinite(measure["value"]) and 0 < low <= high, measure
        assert (measure["met"] is None) == (measure["bar"] is None)
        assert measure["sides"] and set(measure["sides"]) <= row["peak_mib"].keys()


def test_every_side_writes_the_same_answers(results: Results) -> None:
    shares = {
        (name, measure["what"]): measure["details"]["equal answers"]
        for name, row in results.items()
        for measure in row["measures"]
        if "equal answers" in measure["details"]
    }
    assert len(shares) >= 6
    assert set(shares.values()) == {1.0}


def test_the_merged_tree_is_compared_with_every_source(results: Results) -> None:
    details = results["merged_tree"]["measures"][0]["details"]
    assert {"merged", "prompt_lookup", "draft_model", "rejected_answer"} <= details.keys()
    assert min(details.values()) >= 1.0


def a_measure(value: float, bar: Bar | None, spread: float = 0.1) -> Measure:
    found = Estimate(value, value - spread, value + spread)
    return Measure(what="x", baseline="y", estimate=found, bar=bar, sides=("s",))


@pytest.mark.parametrize(
    ("value", "bar", "met"),
    [
        (1.6, Bar("at least", 1.5), True),
        (1.4, Bar("at least", 1.5), False),
        (0.15, Bar("at most", 0.2), True),
        (0.25, Bar("at most", 0.2), False),
        (1.05, Bar("at least", 1.0, whole_interval=True), False),
        (1.15, Bar("at least", 1.0, whole_interval=True), True),
        (0.15, Bar("at most", 0.2, whole_interval=True), False),
        (9.0, None, None),
    ],
)
def test_a_bar_judges_the_value_or_the_nearer_end(
    value: float, bar: Bar | None, met: bool | None
) -> None:
    measure = a_measure(value, bar)
    assert measure.met is met
    row = Row(name="r", title="A title", measures=(measure,), peak_mib={"s": 1.0})
    assert ("**missed**" in page([row], {})) == (met is False)
    if bar is not None and not bar.whole_interval:
        assert (times_the_bar(measure)[0] >= 1) == met
        assert plot([row]).count("<rect") == 2


def test_the_dial_keeps_as_many_tokens_as_it_says() -> None:
    text = tuple(range(3, 2003))
    for right in (0.0, 0.5, 0.7, 1.0):
        prompt = with_prediction(Prompt((1, 2)), text, right=right, vocabulary=4096)
        (guess,) = prompt.references
        kept = sum(a == b for a, b in zip(guess.tokens, text, strict=True)) / len(text)
        assert kept == pytest.approx(right, abs=0.04)


def test_the_token_before_each_token_lies_on_one_cycle() -> None:
    before = one_cycle(50, seed=3)
    seen, token = set(), 0
    while token not in seen:
        seen.add(token)
        token = before[token]
    assert len(seen) == 50


def growing(mib: int) -> Mapping[str, Any]:
    """Methods that take memory, tell their threads, or fail."""

    def fail() -> None:
        raise ValueError("on purpose")

    def grow() -> int:
        return len(bytearray(mib << 20))

    return {"grow": grow, "rest": lambda: None, "threads": torch.get_num_threads, "fail": fail}


def test_a_worker_measures_the_peak_of_each_method_and_passes_failures_on() -> None:
    with process_worker(1, growing, 300) as worker:
        assert worker.call("threads") == 1
        worker.call("rest")
        worker.call("grow")
        worker.call("rest")
        assert worker.peaks["grow"] - worker.peaks["rest"] > 250 << 20
        with pytest.raises(WorkerFailed, match="on purpose"):
            worker.call("fail")
        assert worker.call("threads") == 1


def test_a_worker_that_cannot_be_built_says_why() -> None:
    with (
        process_worker(1, growing, "many") as worker,  # fails when it is called
        pytest.raises(WorkerFailed, match="TypeError"),
    ):
        worker.call("grow")
