"""Gives the linear layers of a transformers model the weights' layout of the lean path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verifier.linear import Linear


class PackedLinear(nn.Module):
    """A linear layer whose weights lie as the processor wants to read them; inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()
        self._linear = Linear(linear.weight.detach(), bias)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        out = self._linear(x.reshape(-1, self.in_features))
        return out.view(*x.shape[:-1], self.out_features)


@torch.no_grad()
def pack(model: nn.Module) -> bool:
    """Pack every plain linear layer that lies on a CPU, one at a time; whether there was one."""
    packed = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.device.type == "cpu":
                setattr(parent, name, PackedLinear(child))
                packed = True
    return packed
