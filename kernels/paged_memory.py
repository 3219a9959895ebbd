"""Where the paged kernels find keys and values: committed pages, and scratch for draft trees."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.errors import KernelError

WORD_BITS = 64


class PagedContext(NamedTuple):
    """Committed keys and values of one layer, read only here. P pages, Hkv key heads, D head size.

    Strides are free but for the last, which is 1: keys and values may be halves of one tensor.
    """

    keys: Tensor  # [P, page, Hkv, D]; page: a power of two
    values: Tensor  # the same shape and dtype
    tables: Tensor  # [requests, M] int32: pages of each request in order; entries past its end: any


class TreeScratch(NamedTuple):
    """Keys and values of the S rows of this step, and who may see whom."""

    keys: Tensor  # [S, Hkv, D], requests side by side
    values: Tensor  # the same shape and dtype
    words: (
        Tensor  # [S, W] int64: bit j of word w: row 64 w + j of the request is an ancestor or self
    )
    depths: Tensor  # [S] int32: position minus context


def check_context(context: PagedContext, scratch: TreeScratch, q: Tensor) -> None:
    """Raise ``KernelError`` unless all agree in shape, dtype, device and layout; reads no value."""
    for name, tensor in (("context.keys", context.keys), ("context.values", context.values)):
        expect(name, tensor, (None, None, scratch.keys.shape[1], q.shape[-1]), q.dtype, q.device)
    for name, tensor in (("scratch.keys", scratch.keys), ("scratch.values", scratch.values)):
        expect(name, tensor, (None, context.keys.shape[2], q.shape[-1]), q.dtype, q.device)
    expect("context.values", context.values, tuple(context.keys.shape), q.dtype, q.device)
    expect("scratch.values", scratch.values, tuple(scratch.keys.shape), q.dtype, q.device)
    page, rows = context.keys.shape[1], scratch.keys.shape[0]
    if page & (page - 1) or not page:
        raise KernelError(f"got pages of {page} tokens; expected a power of two")
    expect("tables", context.tables, (None, None), torch.int32, q.device)
    expect("words", scratch.words, (rows, None), torch.int64, q.device, contiguous=True)
    expect("depths", scratch.depths, (rows,), torch.int32, q.device, contiguous=True)


def expect(
    name: str,
    tensor: Tensor,
    shape: tuple[int | None, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    contiguous: bool = False,
) -> None:
    """Raise ``KernelError`` unless ``tensor`` is as described; None in ``shape``: any length.

    The last dimension must have stride 1, ``contiguous``: all dimensions must follow each other.
    """
    got = tuple(tensor.shape)
    if len(got) != len(shape) or any(w not in (None, g) for w, g in zip(shape, got, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise KernelError(f"got {name} of shape {got}; expected ({wanted})")
    if tensor.dtype != dtype:
        raise KernelError(f"got {name} of {tensor.dtype}; expected {dtype}")
    if tensor.device != device:
        raise KernelError(f"got {name} on {tensor.device}; expected {device}")
    if contiguous and not tensor.is_contiguous():
        raise KernelError(f"got {name} with strides {tensor.stride()}; expected it contiguous")
    if got and got[-1] > 1 and tensor.stride(-1) != 1:
        raise KernelError(f"got {name} with strides {tensor.stride()}; expected 1 as the last")
