"""A made-up ladder: its right answers depend on family, size and luck; models trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from threadpoolctl import threadpool_limits

from router_model.estimators import CANDIDATES, Candidate, boosted
from router_model.outcomes import Outcome, Split
from router_model.table import OutcomeTable, table_of
from router_model.train import Trained, train

TIERS = ("brook", "creek", "river")
REACH = {"brook": 4.0, "creek": 9.0, "river": 20.0}
ASKS = {
    "copy": "Repeat these words exactly: {}",
    "sort": "Sort from smallest to largest: {}",
    "find": 'How many times does "apple" appear? {}',
}
WORDS = ("apple", "river", "stone", "cloud", "17", "4", "903", "grün", "window", "lamp")


def _made_outcomes(split: Split, count: int, seed: int = 0) -> list[Outcome]:
    """Outcomes of all tiers on ``count`` prompts; log-probs tell something of what is right."""
    rng = Random(f"{split}/{seed}")
    return [outcome for _ in range(count) for outcome in _of_one_prompt(rng, split)]


def _of_one_prompt(rng: Random, split: Split) -> list[Outcome]:
    family = rng.choice(sorted(ASKS))
    words = [rng.choice(WORDS) + str(rng.randint(0, 10**6)) for _ in range(rng.randint(1, 16))]
    prompt = ASKS[family].format(" ".join(words))
    harder = 3 if family == "sort" else 0
    return [_of_one_tier(rng, split, family, prompt, words, tier, harder) for tier in TIERS]


def _of_one_tier(
    rng: Random, split: Split, family: str, prompt: str, words: list[str], tier: str, harder: int
) -> Outcome:
    correct = rng.gauss(REACH[tier] - harder, 2.0) > len(words)
    doubt = rng.expovariate(8.0) if correct else rng.expovariate(1.0)
    tokens = 2 * len(words)
    logprobs = [-rng.expovariate(200.0) for _ in range(tokens)]
    logprobs[rng.randrange(tokens)] -= doubt
    return Outcome(
        split=split,
        tier=tier,
        answer=" ".join(words if correct else words[:-1]),
        correct=correct,
        prompt=prompt,
        family=family,
        finish_reason="stop",
        tokens=tokens,
        latency_ms=tokens * REACH[tier],
        logprobs=tuple(logprobs),
        margins=tuple(1.0 - 2 * value for value in logprobs),
        fingerprint=f"fp-{tier}",
    )


def _made_table(split: Split, count: int, seed: int = 0) -> OutcomeTable:
    """Made outcomes as a table."""
    return table_of(_made_outcomes(split, count, seed), split, TIERS)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """scikit-learn's threads that share busy cores are many times slower than one."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def made_outcomes() -> Callable[..., list[Outcome]]:
    return _made_outcomes


@pytest.fixture(scope="session")
def made_table() -> Callable[..., OutcomeTable]:
    return _made_table


@pytest.fixture(scope="session")
def training_table() -> OutcomeTable:
    return _made_table("router-train", 400)


@pytest.fixture(scope="session")
def quick() -> tuple[Candidate, ...]:
    """A linear and a boosted estimator that are fitted in no time."""
    shape = {"max_iter": 12, "max_leaf_nodes": 5, "learning_rate": 0.3, "min_samples_leaf": 10}
    return (CANDIDATES[0], boosted("boosted, tiny", **shape))


@pytest.fixture(scope="session")
def trained(training_table: OutcomeTable, quick: tuple[Candidate, ...]) -> Trained:
    return train(training_table, candidates=quick)


@pytest.fixture(scope="session")
def saved(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("router")
    trained.router.save(folder)
    trained.judge.save(folder)
    return folder
