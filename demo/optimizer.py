"""Muon for the hidden matrices and Adam for the rest, on float32 masters of bfloat16 weights."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
BETAS = (0.9, 0.98)
DECAY = 0.01


def orthogonal(matrices: Tensor) -> Tensor:
    """For each of (N, rows, columns) nearly the closest matrix with orthonormal rows or columns."""
    x = matrices.bfloat16()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        correction = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, correction, x, beta=3.4445)
    return x.mT if tall else x


class Muon:
    """Steps along the orthogonal part of the momentum, each fused part on its own."""

    def __init__(self, weights: list[tuple[Tensor, tuple[int, ...]]], rate: float) -> None:
        self.weights, self.rate = weights, rate
        self.masters = [weight.detach().float() for weight, _ in weights]
        self.momenta = [torch.zeros_like(master) for master in self.masters]

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update at `share` of the full rate; gradients are cleared."""
        rate = self.rate * share
        wanted = defaultdict(list)
        for (weight, parts), master, momentum in zip(
            self.weights, self.masters, self.momenta, strict=True
        ):
            assert weight.grad is not None
            grad = weight.grad.float()
            momentum.lerp_(grad, 1 - MOMENTUM)
            master.mul_(1 - rate * DECAY)
            ahead = grad.lerp_(momentum, MOMENTUM)
            for part, direction in zip(
                torch.split(master, list(parts)), torch.split(ahead, list(parts)), strict=True
            ):
                wanted[part.shape].append((part, direction))
        for (rows, columns), pairs in wanted.items():
            scale = max(1.0, rows / columns) ** 0.5
            directions = orthogonal(torch.stack([direction for _, direction in pairs]))
            for (part, _), direction in zip(pairs, directions, strict=True):
                part.add_(direction, alpha=-rate * scale)
        for (weight, _), master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)
            weight.grad = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"masters": self.masters, "momenta": self.momenta}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.masters, self.momenta = state["masters"], state["momenta"]
        for (weight, _), master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)


class Adam:
    """Adam without weight decay; each weight has its own rate."""

    def __init__(self, rated: list[tuple[Tensor, float]]) -> None:
        self.weights, self.rates = [list(column) for column in zip(*rated, strict=True)]
        self.count = 0
        self.masters = [weight.detach().float() for weight in self.weights]
        self.means = [torch.zeros_like(master) for master in self.masters]
        self.squares = [torch.zeros_like(master) for master in self.masters]

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update at `share` of the full rate; gradients are cleared."""
        self.count += 1
        first, second = (1 - beta**self.count for beta in BETAS)
        rows = zip(self.weights, self.rates, self.masters, self.means, self.squares, strict=True)
        for weight, rate, master, mean, square in rows:
            assert weight.grad is not None
            grad = weight.grad.float()
            mean.lerp_(grad, 1 - BETAS[0])
            square.lerp_(grad.square(), 1 - BETAS[1])
            root = (square / second).sqrt_().add_(1e-8)
            master.addcdiv_(mean / first, root, value=-rate * share)
            weight.copy_(master)
            weight.grad = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "masters": self.masters,
            "means": self.means,
            "squares": self.squares,
            "count": self.count,
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.masters, self.means = state["masters"], state["means"]
        self.squares, self.count = state["squares"], state["count"]
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)
