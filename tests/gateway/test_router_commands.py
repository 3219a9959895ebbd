"""`spillway router`: from outcomes to a trained router and its evaluation, by the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

import pytest

from gateway.errors import GatewayError
from gateway.router_commands import add_steps
from router_model.classifier import Router
from router_model.judge import Judge
from router_model.outcomes import Outcome, format_outcome


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_steps(parser.add_subparsers(required=True))
    options = parser.parse_args([str(each) for each in arguments])
    return int(options.run(options))


def outcomes(split: str, count: int) -> list[Outcome]:
    """The small tier copies up to five words, the large one up to twelve."""
    rng = Random(split)
    found = []
    for _ in range(count):
        words = [f"w{rng.randint(0, 10**6)}" for _ in range(rng.randint(1, 12))]
        for tier, reach in (("small", 5), ("large", 12)):
            right = len(words) <= reach or rng.random() < 0.1
            found.append(
                Outcome(
                    split=split,  # type: ignore[arg-type]
                    tier=tier,
                    prompt="Copy: " + " ".join(words),
                    answer=" ".join(words if right else words[1:]),
                    correct=right,
                    tokens=len(words),
                )
            )
    return found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "outcomes.jsonl"
    splits = (("router-train", 120), ("thresholds", 80), ("test", 80))
    every = [each for split, count in splits for each in outcomes(split, count)]
    path.write_text("".join(format_outcome(each) + "\n" for each in every))
    return path


@pytest.fixture(scope="module")
def folder(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("router")
    tiers = ("--tier", "small", "--tier", "large", "--estimator", "logistic")
    tiers += ("--price", "small=1", "--price", "large=5")
    assert run("train", "--outcomes", recorded, "--router", folder, *tiers) == 0
    return folder


def test_training_writes_a_router_a_judge_and_a_policy(folder: Path) -> None:
    router = Router.load(folder)
    easy, hard = (router.predict("Copy: " + " ".join(["w1"] * n))["small"] for n in (2, 11))
    assert easy > hard
    assert Judge.load(folder).tiers == ("small", "large")
    policy = json.loads((folder / "policy.json").read_text())
    assert list(policy["tiers"]) == ["small", "large"]
    assert policy["predicted"]["quality"] >= 0.985


def test_evaluating_prints_tables_and_writes_them_as_json(
    recorded: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "--outcomes", recorded, "--router", folder) == 0
    assert "### Cascades" in capsys.readouterr().out
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["prompts"] == 80
    assert report["decision_ms"]["at any length"] > 0


def test_missing_outcomes_are_an_error_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"none\.jsonl"):
        run("train", "--outcomes", tmp_path / "none.jsonl", "--router", tmp_path, "--tier", "a")


def test_collecting_without_a_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="--split"):
        run("collect", "--out", tmp_path / "out", "--tier", "a")


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="no_such:thing"):
        run(
            "collect",
            "--out",
            tmp_path / "o",
            "--tier",
            "a",
            "--split",
            "test",
            "--source",
            "no_such:thing",
        )


def test_collecting_no_prompts_asks_nobody(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "x", "expected": "y", "split": "test"}) + "\n")
    done = run(
        "collect",
        "--out",
        tmp_path / "o",
        "--tier",
        "a",
        "--prompts",
        prompts,
        "--split",
        "thresholds",
    )
    assert done == 0
    assert (tmp_path / "o").read_text() == ""


def test_an_unknown_estimator_is_refused_with_those_there_are(
    recorded: Path, tmp_path: Path
) -> None:
    with pytest.raises(GatewayError, match=r"got 'magic', expected one of \['logistic'"):
        run(
            "train",
            "--outcomes",
            recorded,
            "--router",
            tmp_path,
            "--tier",
            "small",
            "--tier",
            "large",
            "--estimator",
            "magic",
        )


def test_a_price_that_is_no_number_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match="got 'small=dear', expected NAME=NUMBER"):
        run(
            "train",
            "--outcomes",
            recorded,
            "--router",
            tmp_path,
            "--tier",
            "small",
            "--tier",
            "large",
            "--price",
            "small=dear",
        )
