"""Linear layers for few rows: weights lie as the processor wants to read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_PACKED_FOR_ROWS = 16  # the layout oneDNN takes for these serves 1 to 256 rows well
_SMALL = 300_000  # multiplications below which setting oneDNN up costs more than it saves

_has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_multiply: Any = torch.ops.mkldnn._linear_pointwise.default if _has_onednn else None


class Linear:
    """``x @ weight.T + bias``, for inference on one device.

    On a CPU a float32 or bfloat16 weight is reordered once by oneDNN, which halves the time at
    1 to 32 rows: PyTorch's own path reorders it at every call. A small float32 weight is also kept
    as it is, for products so small that oneDNN's fixed cost of ten microseconds shows.
    """

    __slots__ = ("_bias", "_packed", "_plain", "_plain_rows", "shape")

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """``weight``: [outputs, inputs]; ``bias``: [outputs]."""
        self.shape = tuple(weight.shape)
        self._bias = bias
        self._packed: Tensor | None = None
        self._plain: Tensor | None = weight
        self._plain_rows = -1  # up to this many rows the plain weight is faster
        if _can_pack(weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
            if weight.dtype is torch.float32 and weight.numel() <= _SMALL:
                self._plain_rows = _SMALL // weight.numel()
            # Laid out by inputs it multiplies single rows faster.
            self._plain = weight.t().contiguous().t() if self._plain_rows > 0 else None

    def __call__(self, x: Tensor) -> Tensor:
        """[T, inputs] to [T, outputs], freshly allocated."""
        if self._packed is None or x.shape[0] <= self._plain_rows:
            return F.linear(x, self._plain, self._bias)  # type: ignore[arg-type]
        product: Tensor = _multiply(x, self._packed, self._bias, "none", [], "")
        return product

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` [T, outputs] plus the product, freshly allocated."""
        if self._bias is None and (self._packed is None or x.shape[0] <= self._plain_rows):
            return torch.addmm(residual, x, self._plain.t())  # type: ignore[union-attr]
        return self(x).add_(residual)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not _has_onednn:
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
