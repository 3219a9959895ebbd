"""The sizes of the three models and how long each is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ModelName = Literal["brook", "creek", "river"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One model: its Llama shape and its training schedule."""

    name: ModelName
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    steps: int
    decay_steps: int
    head_size: int = 32
    batch_tokens: int = 4096
    warmup_steps: int = 60
    matrix_rate: float = 0.007
    early_rate: float = 3.0
    vector_rate: float = 0.002
    embedding_rate: float = 0.03
    easy_batches: int = 300
    seed: int = 1

    def rate_at(self, step: int) -> float:
        """Share of the full learning rate: warm-up, level, then linear decay to nothing."""
        rising = (step + 1) / self.warmup_steps
        falling = (self.steps - step) / self.decay_steps
        early = self.early_rate if step < self.easy_batches else 1.0
        return early * max(0.0, min(1.0, rising, falling))


RECIPES: Mapping[ModelName, Recipe] = {
    "brook": Recipe(
        name="brook", layers=2, width=128, inner=352, heads=4, kv_heads=2, easy_batches=1200,
        steps=1500, decay_steps=500,
    ),
    "creek": Recipe(
        name="creek", layers=4, width=192, inner=512, heads=6, kv_heads=2,
        steps=1500, decay_steps=500,
    ),
    "river": Recipe(
        name="river", layers=10, width=192, inner=512, heads=6, kv_heads=3,
        steps=4000, decay_steps=1200,
    ),
}  # fmt: skip


EASY_FAMILY, EASY_TOKENS = "copy", 1024
"""Every model begins with small batches of copying: most families build on it."""

CONTEXT = 2048
ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-5
