"""The sizes of the three models and how long each is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ModelName = Literal["brook", "creek", "river"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model: its Llama shape and its training schedule.

    A model with `grown_from` begins as that model with every layer followed by a new one
    that does nothing yet; the smaller model keeps a copy of itself for this at `sapling_at`.
    """

    name: ModelName
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    steps: int
    decay_steps: int
    seed: int
    head_size: int = 32
    batch_tokens: int = 4096
    warmup_steps: int = 60
    matrix_rate: float = 0.007
    early_rate: float = 3.0
    vector_rate: float = 0.002
    embedding_rate: float = 0.03
    easy_batches: int = 0
    sapling_at: int | None = None
    grown_from: ModelName | None = None

    def rate_at(self, step: int) -> float:
        """Share of the full learning rate: warm-up, level, then linear decay to nothing."""
        rising = (step + 1) / self.warmup_steps
        falling = (self.steps - step) / self.decay_steps
        early = self.early_rate if step < self.easy_batches else 1.0
        return early * max(0.0, min(1.0, rising, falling))


RECIPES: Mapping[ModelName, Recipe] = {
    "brook": Recipe(
        name="brook", layers=2, width=128, inner=352, heads=4, kv_heads=2,
        easy_batches=1200, steps=6000, decay_steps=1000, seed=1,
    ),
    "creek": Recipe(
        name="creek", layers=4, width=192, inner=512, heads=6, kv_heads=2,
        easy_batches=300, steps=5000, decay_steps=700, seed=1, sapling_at=4300,
    ),
    "river": Recipe(
        name="river", layers=8, width=192, inner=512, heads=6, kv_heads=2,
        steps=3000, decay_steps=1000, seed=2, grown_from="creek",
    ),
}  # fmt: skip

EASY_FAMILY, EASY_TOKENS = "copy", 1024
"""A model that starts from nothing begins with small batches of copying: most families need it."""

SHORT_SHARE = 3
"""How many times as often a family of short answers is practised as one of long answers."""

CONTEXT = 2048
ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5
