"""Training uses its own split only and records what it did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from router_model.errors import SplitMismatch
from router_model.estimators import CANDIDATES, Candidate
from router_model.table import OutcomeTable
from router_model.train import Trained, train

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]


@pytest.mark.parametrize("split", ["thresholds", "test"])
def test_any_split_but_its_own_is_refused(made_table: MakeTable, split) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SplitMismatch, match=f"'{split}', expected 'router-train'"):
        train(made_table(split, 60))


def test_too_few_prompts_are_refused(made_table: MakeTable) -> None:
    with pytest.raises(ValueError, match="got 9 prompts to train on"):
        train(made_table("router-train", 9))


def test_the_choice_of_estimator_is_recorded_with_figures_of_all(
    trained: Trained, quick: tuple[Candidate, ...]
) -> None:
    metadata = trained.router.metadata
    assert metadata["estimator"] in metadata["compared"]
    assert set(metadata["compared"]) == {each.name for each in quick}

    def loss(name: str) -> float:
        return float(np.mean([each["log_loss"] for each in metadata["compared"][name].values()]))

    assert metadata["estimator"] == min(metadata["compared"], key=loss)


def test_the_data_and_the_ladder_are_recorded(
    trained: Trained, training_table: OutcomeTable
) -> None:
    data = trained.router.metadata["training_data"]
    assert data["prompts"] == len(training_table)
    assert set(data["right"]) == set(TIERS)
    assert trained.router.metadata["fingerprints"] == {tier: f"fp-{tier}" for tier in TIERS}
    assert set(trained.router.trained_on) == set(training_table.digests)


def test_training_twice_gives_the_same_model(
    made_table: MakeTable, quick: tuple[Candidate, ...]
) -> None:
    table = made_table("router-train", 120)
    one, other = (train(table, candidates=quick) for _ in range(2))
    for prompt in made_table("test", 5).requests:
        assert one.router.predict(prompt) == pytest.approx(other.router.predict(prompt), abs=1e-9)


def test_other_answers_give_another_digest_of_the_data(made_table: MakeTable) -> None:
    one = train(made_table("router-train", 60, seed=1), candidates=CANDIDATES[:1])
    other = train(made_table("router-train", 60, seed=2), candidates=CANDIDATES[:1])
    assert (
        one.router.metadata["training_data"]["digest"]
        != other.router.metadata["training_data"]["digest"]
    )
