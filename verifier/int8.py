"""Linear layers whose weights are kept in eight bits and computed with in bfloat16, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 127
_FEW_ROWS = 4  # up to here PyTorch's product with eight-bit weights is the faster way


class Int8Linear(nn.Module):
    """``x @ (weight * scale).T + bias``, a scale for each output; a quarter of float32's memory."""

    stored: Tensor  # [outputs, inputs] int8
    scale: Tensor  # [outputs]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / LEVELS
        stored = (weight / scale.unsqueeze(1)).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
        self.register_buffer("stored", stored)
        self.register_buffer("scale", scale.to(linear.weight.dtype))
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    @property
    def weight(self) -> Tensor:
        """The weights that are computed with, [outputs, inputs]; made anew at every look."""
        return self.stored.to(self.scale.dtype) * self.scale.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs] in the dtype of ``x``."""
        rows = x.reshape(-1, self.in_features)
        if x.dtype is torch.bfloat16 and rows.shape[0] <= _FEW_ROWS:
            out = torch._weight_int8pack_mm(rows, self.stored, self.scale)
        else:
            out = F.linear(rows, self.stored.to(x.dtype)) * self.scale.to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def quantize(model: nn.Module) -> int:
    """Put the weights of ``model``'s linear layers into eight bits, one layer at a time.

    Embeddings and the layer that scores tokens stay as they are, and so do experts that keep their
    weights in one tensor. Gives the number of layers that changed.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    changed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, Int8Linear(child))
                changed += 1
    return changed
