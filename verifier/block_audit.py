"""Has one in so many fetched pages computed again, and compares the two."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_MOST_OPEN: Final = 8  # pages that wait to be compared; some never are, as their request was cut
_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.125, torch.float16: 0.125}
"""The largest difference that rounding may make, of the largest key or value of the layer."""


class Audit:
    """Chooses pages that a request computes although they came, and remembers what came."""

    def __init__(self, every: int) -> None:
        """``every``: pages fetched to one that is compared; 0: none ever is."""
        self._every = every
        self._fetched = 0  # since the latest choice
        self._open: OrderedDict[bytes, Tensor] = OrderedDict()

    def choose(self, names: Sequence[bytes]) -> bytes | None:
        """The name of a page to compare, any of ``names`` alike; mostly none."""
        self._fetched += len(names)
        if not self._every or self._fetched < self._every:
            return None
        return secrets.choice(names)

    def expect(self, name: bytes, page: Tensor) -> None:
        """That is what the store says of a chosen page."""
        self._fetched = 0
        self._open[name] = page
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)

    def agrees(self, name: bytes, page: Tensor) -> bool | None:
        """Whether the computed ``page`` is what the store says; None: it was not asked."""
        stored = self._open.pop(name, None)
        return None if stored is None else alike(stored, page.to(stored.device))


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two pages [layers, tokens, 2 * heads, head_size] differ by rounding at most."""
    a, b = _by_kind(one), _by_kind(other)
    worst = (a - b).abs().amax(2)
    largest = torch.maximum(a.abs().amax(2), b.abs().amax(2))
    return bool((worst <= _TOLERANCE[one.dtype] * largest).all())


def _by_kind(page: Tensor) -> Tensor:
    """Its numbers as [layers, keys or values, all of them]."""
    layers, tokens, both, size = page.shape
    kinds = page.float().view(layers, tokens, 2, both // 2 * size)
    return kinds.transpose(1, 2).flatten(2)
