"""The trained router and judge answer the cascade, or are refused with a reason."""

from __future__ import annotations

import logging
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.cascade.answer import Choice
from gateway.cascade.estimator import TrainedEstimator, load_estimator
from router_model.estimators import CANDIDATES
from router_model.outcomes import Outcome
from router_model.table import table_of
from router_model.train import train

LADDER = ("brook", "river")


def outcomes(count: int = 160) -> list[Outcome]:
    """Short requests are easy, and a doubtful answer is a wrong one."""
    dice = Random(5)
    found = []
    for _ in range(count):
        words = [str(dice.randrange(10**6)) for _ in range(dice.randint(1, 12))]
        for tier, reach in (("brook", 5), ("river", 20)):
            correct = dice.gauss(reach, 1) > len(words)
            logprobs = (-0.01 if correct else -2.5, *(-0.01 for _ in words))
            found.append(
                Outcome(
                    split="router-train",
                    tier=tier,
                    prompt="Repeat: " + " ".join(words),
                    answer=" ".join(words),
                    correct=correct,
                    tokens=len(logprobs),
                    finish_reason="stop",
                    latency_ms=float(reach),
                    logprobs=logprobs,
                    margins=tuple(1 - value for value in logprobs),
                )
            )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router and a judge, trained and saved."""
    where = tmp_path_factory.mktemp("router")
    trained = train(table_of(outcomes(), "router-train", LADDER), candidates=CANDIDATES[:1])
    trained.router.save(where)
    trained.judge.save(where)
    return where


@pytest.fixture
def trained(folder: Path) -> TrainedEstimator:
    loaded = load_estimator(folder, LADDER)
    assert loaded is not None
    return loaded


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def said(*logprobs: float) -> Choice:
    entries = tuple(
        {"token": "x", "logprob": value,
         "top_logprobs": [{"logprob": value}, {"logprob": value - 1}]}
        for value in logprobs
    )  # fmt: skip
    return Choice(text="1 2", finish_reason="stop", logprobs=entries)


def test_a_harder_request_is_less_likely_to_be_answered_by_the_small_tier(
    trained: TrainedEstimator,
) -> None:
    easy, hard = (trained.read("chat", chat("Repeat: " + "123456 " * n)) for n in (1, 12))
    assert easy is not None and hard is not None
    assert set(easy.probabilities) == set(LADDER)
    assert easy.probabilities["brook"] > hard.probabilities["brook"]


def test_prompts_and_messages_are_read_alike_and_tokens_not_at_all(
    trained: TrainedEstimator,
) -> None:
    one, other = trained.read("chat", chat("x 1")), trained.read("completions", {"prompt": "x 1"})
    assert one is not None and other is not None
    assert one.probabilities == other.probabilities
    assert trained.read("completions", {"prompt": [1, 2]}) is None


def test_a_doubtful_answer_scores_less_than_a_sure_one(trained: TrainedEstimator) -> None:
    outlook = trained.read("chat", chat("Repeat: 1 2"))
    assert outlook is not None
    sure, doubtful = (
        outlook.score("brook", said(first, -0.01, -0.01), 3) for first in (-0.01, -2.5)
    )
    assert sure is not None and doubtful is not None
    assert 0 <= doubtful < sure <= 1
    without = outlook.score("brook", Choice(text="1 2", finish_reason="stop"), None)
    assert without is not None and 0 <= without <= 1
    assert trained.top_logprobs == 2


def test_without_a_judge_the_request_alone_is_the_score(folder: Path, tmp_path: Path) -> None:
    for name in ("router.json", "router.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    alone = load_estimator(tmp_path, LADDER)
    assert alone is not None
    assert alone.top_logprobs is None
    outlook = alone.read("chat", chat("Repeat: 1"))
    assert outlook is not None
    assert outlook.score("brook", said(-9.0), 1) == outlook.probabilities["brook"]


@pytest.mark.parametrize("ladder", [("brook",), ("river", "brook"), ("brook", "creek", "river")])
def test_a_router_for_another_ladder_is_not_used_and_the_log_says_why(
    folder: Path, ladder: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert load_estimator(folder, ladder) is None
    assert "tiers" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage"])
def test_a_damaged_router_is_not_used(
    folder: Path, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "router.npz").write_bytes(damage)
    assert load_estimator(tmp_path, LADDER) is None
    assert "no router" in caplog.text


def test_no_router_configured_is_no_estimator(tmp_path: Path) -> None:
    assert load_estimator(None, LADDER) is None
    assert load_estimator(tmp_path / "nothing", LADDER) is None


def test_the_version_changes_with_the_model(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "judge.json").unlink()
    versions = {getattr(load_estimator(path, LADDER), "version", None) for path in
                (folder, folder, tmp_path)}  # fmt: skip
    assert len(versions) == 2
