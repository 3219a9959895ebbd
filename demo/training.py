"""Trains one model of the ladder, with checkpoints to go on from."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from demo.conversations import Batch, batches
from demo.export import export
from demo.optimizer import Adam, Muon
from demo.recipe import EASY_FAMILY, EASY_TOKENS, Recipe
from demo.tasks import FAMILIES
from demo.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run keeps its checkpoint and where the finished model goes."""

    checkpoint: Path
    finished: Path


def loss_of(model: Transformer, batch: Batch) -> Tensor:
    """Weighted cross-entropy over the answer tokens alone."""
    hidden = model.hidden(batch.tokens).flatten(0, 1)[batch.places]
    logits = functional.linear(hidden, model.head).float()
    losses = functional.cross_entropy(logits, batch.targets, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, places: Places, *, resume: bool
) -> Transformer:
    """Run the recipe to its end and export the model."""
    model = Transformer(recipe, len(tokenizer))
    muon = Muon(model.matrices(), recipe.matrix_rate)
    adam = Adam(
        [(model.embedding, recipe.embedding_rate)]
        + [(vector, recipe.vector_rate) for vector in model.vectors()]
    )
    start = _load(places.checkpoint, muon, adam) if resume and places.checkpoint.exists() else 0
    feed = islice(_lessons(recipe, tokenizer), start, recipe.steps)
    progress = _Progress(recipe)
    for step, batch in enumerate(feed, start):
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        muon.step(recipe.rate_at(step))
        adam.step(recipe.rate_at(step))
        progress.show(step, batch, loss)
        if step % 100 == 99:
            _save(places.checkpoint, step + 1, muon, adam)
    export(model, tokenizer, places.finished)
    return model


def _lessons(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Small batches of copying, then all families without end."""
    easy = [family for family in FAMILIES if family.name == EASY_FAMILY]
    yield from islice(batches(tokenizer, recipe.seed, EASY_TOKENS, easy), recipe.easy_batches)
    yield from batches(tokenizer, recipe.seed, recipe.batch_tokens)


class _Progress:
    """A line every twenty steps."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.tokens, self.loss = recipe, 0, 0.0
        self.since = time.monotonic()

    def show(self, step: int, batch: Batch, loss: Tensor) -> None:
        self.tokens += batch.tokens.numel()
        self.loss += loss.item()
        if step % 20 == 19:
            speed = self.tokens / (time.monotonic() - self.since)
            print(
                f"{self.recipe.name} {step + 1}/{self.recipe.steps} "
                f"loss {self.loss / 20:.4f} {speed:,.0f} tokens/s",
                flush=True,
            )
            self.__init__(self.recipe)  # type: ignore[misc]


def _save(path: Path, step: int, muon: Muon, adam: Adam) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"step": step, "muon": muon.state(), "adam": adam.state()}
    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


def _load(path: Path, muon: Muon, adam: Adam) -> int:
    state = torch.load(path)
    muon.load(state["muon"])
    adam.load(state["adam"])
    return int(state["step"])
