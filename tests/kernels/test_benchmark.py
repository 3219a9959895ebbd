"""The benchmark runs to its end without a GPU, and claims nothing then."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.kernels.__main__ import main
from benchmarks.kernels.baselines import dense, flex
from benchmarks.kernels.cases import uniform_case
from benchmarks.kernels.speed import TOY, TOY_SETTINGS, ours_of
from kernels.tiles import WHOLE, Tile


def test_it_runs_at_toy_size_and_says_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FlexAttention is not compiled here
        assert main(["--toy", "--out", str(tmp_path / "results.json")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["measured"] is False
    assert {row["kernel"].split(",")[0] for row in results["errors"]} == {
        "paged_attention", "expand_trees", "walk_trees", "commit_to_pages",
    }  # fmt: skip
    assert all(row["ours"] <= 2 * row["pytorch"] for row in results["errors"])
    printed = capsys.readouterr().out
    assert printed.count("not measured") > 20
    assert not re.search(r"\d (%|TB/s|TFLOP/s) of|\| \d+\.\d+ \|.*SDPA", printed)


@pytest.mark.parametrize("setting", TOY_SETTINGS)
def test_every_way_computes_the_same(place: torch.device, setting) -> None:
    case = uniform_case(setting.batch, setting.context, setting.nodes, TOY, place)
    ours = ours_of(case, setting)()
    narrow = ours_of(case, setting._replace(chunk=WHOLE), Tile(16, 32, 4, 3))()
    torch.testing.assert_close(narrow, ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for prepare in (dense, flex):
            theirs = prepare(case).run().transpose(1, 2).reshape(ours.shape)
            torch.testing.assert_close(theirs, ours)
