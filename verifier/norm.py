"""Root-mean-square norms in as few operations as a CPU allows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class RmsNorm:
    """``x / sqrt(mean(x ** 2) + epsilon) * weight`` over the last dimension, in float32 inside.

    PyTorch composes its own of six operations on a CPU; the root of a sum of squares and a floor
    is the hypotenuse of the norm and the floor, which takes three.
    """

    __slots__ = ("_epsilon", "_floor", "_scaled", "_weight")

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        """``weight``: [size], of the dtype and on the device of what is normed."""
        size = weight.shape[0]
        self._weight = weight
        self._epsilon = epsilon
        self._scaled = weight.float() * size**0.5
        self._floor = torch.tensor((epsilon * size) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, size] to the same, freshly allocated."""
        if x.device.type != "cpu":  # one fused operation there
            return F.rms_norm(x, x.shape[1:], self._weight, self._epsilon)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return x.div(norm.hypot_(self._floor)).mul_(self._scaled).to(x.dtype)
