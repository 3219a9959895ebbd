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
from demo.recipe import EASY_FAMILY, EASY_TOKENS, RECIPES, SHORT_SHARE, ModelName, Recipe
from demo.tasks import FAMILIES
from demo.transformer import Transformer

SAVE_EVERY, SHOW_EVERY = 100, 20


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs keep their checkpoints and where the finished models go."""

    checkpoints: Path
    ladder: Path

    def checkpoint(self, name: ModelName) -> Path:
        """What an interrupted run goes on from."""
        return self.checkpoints / f"{name}.pt"

    def sapling(self, name: ModelName) -> Path:
        """What a deeper model grows from."""
        return self.checkpoints / f"{name}.sapling.pt"


def loss_of(model: Transformer, batch: Batch) -> Tensor:
    """Weighted cross-entropy over the answer tokens alone."""
    hidden = model.hidden(batch.tokens).flatten(0, 1)[batch.places]
    logits = functional.linear(hidden, model.head).float()
    losses = functional.cross_entropy(logits, batch.targets, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, places: Places, *, resume: bool
) -> None:
    """Run the recipe to its end and export the model."""
    model = _planted(recipe, len(tokenizer), places)
    muon, adam = _optimizers(model)
    saved = places.checkpoint(recipe.name)
    start = _load(saved, muon, adam) if resume and saved.exists() else 0
    progress = _Progress(recipe)
    for step, batch in enumerate(islice(_lessons(recipe, tokenizer), start, recipe.steps), start):
        if step == recipe.sapling_at:
            _save(places.sapling(recipe.name), step, muon, adam)
        progress.show(step, batch, _learn(model, batch, muon, adam, recipe.rate_at(step)))
        if (step + 1) % SAVE_EVERY == 0:
            _save(saved, step + 1, muon, adam)
    export(model, tokenizer, places.ladder / recipe.name)


def _planted(recipe: Recipe, vocabulary: int, places: Places) -> Transformer:
    """The model before its first step: from nothing, or grown from a smaller one."""
    model = Transformer(recipe, vocabulary)
    if recipe.grown_from is not None:
        young = Transformer(RECIPES[recipe.grown_from], vocabulary)
        _load(places.sapling(recipe.grown_from), *_optimizers(young))
        model.grow_from(young)
    return model


def _optimizers(model: Transformer) -> tuple[Muon, Adam]:
    recipe = model.recipe
    rated = [(model.embedding, recipe.embedding_rate)]
    rated += [(vector, recipe.vector_rate) for vector in model.vectors()]
    return Muon(model.matrices(), recipe.matrix_rate), Adam(rated)


def _learn(model: Transformer, batch: Batch, muon: Muon, adam: Adam, share: float) -> float:
    loss = loss_of(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    muon.step(share)
    adam.step(share)
    return loss.item()


def _lessons(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Small batches of copying, then all families without end."""
    easy = [family for family in FAMILIES if family.name == EASY_FAMILY]
    every = [family for family in FAMILIES for _ in range(1 if family.long else SHORT_SHARE)]
    yield from islice(batches(tokenizer, recipe.seed, EASY_TOKENS, easy), recipe.easy_batches)
    yield from batches(tokenizer, recipe.seed, recipe.batch_tokens, every)


class _Progress:
    """A line every few steps."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._restart()

    def _restart(self) -> None:
        self.tokens, self.loss, self.since = 0, 0.0, time.monotonic()

    def show(self, step: int, batch: Batch, loss: float) -> None:
        self.tokens += batch.tokens.numel()
        self.loss += loss
        if (step + 1) % SHOW_EVERY == 0:
            speed = self.tokens / (time.monotonic() - self.since)
            done = f"{self.recipe.name} {step + 1}/{self.recipe.steps}"
            print(f"{done} loss {self.loss / SHOW_EVERY:.4f} {speed:,.0f} tokens/s", flush=True)
            self._restart()


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
