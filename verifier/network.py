"""What the engine asks of a loaded model: logits of ragged rows over keys and values at hand."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from verifier.rows import CacheShape, ContextRows, Ragged


class Network(Protocol):
    """A decoder ready to run; satisfied by the lean path and by the attention path."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie and forwards run."""
        ...

    @property
    def cache_shape(self) -> CacheShape:
        """What a token's keys and values take, and where."""
        ...

    def forward(self, batch: Ragged, cache: ContextRows, wanted: Tensor | None = None) -> Tensor:
        """Logits [R, V] float32 of the ``wanted`` rows (None: all); scratch rows are written.

        ``batch`` and ``wanted`` may lie on the host; the logits lie on ``device``. A row sees its
        own request alone, so a neighbour changes no more than rounding.
        """
        ...
