"""Lets a half-precision model compute in float32 for a while, one module's weights at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HALVES = (torch.float16, torch.bfloat16)


@contextmanager
def upcast(model: nn.Module) -> Iterator[None]:
    """Forwards of ``model`` compute in float32; weights stay as they are, and where they are.

    Beside the model lies no more than the weights of the module at work.
    """
    handles = [handle for module in model.modules() for handle in _hooked(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module) -> list[Any]:
    if isinstance(module, nn.Embedding):  # a table is large, and what is read of it is not
        return [module.register_forward_hook(lambda _, __, output: output.float())]
    halves = {
        name: weight
        for name, weight in module.named_parameters(recurse=False)
        if weight.dtype in HALVES
    }
    if not halves:
        return []

    def widen(module: nn.Module, _: Any) -> None:
        for name, weight in halves.items():
            module._parameters[name] = nn.Parameter(weight.float(), requires_grad=False)

    def restore(module: nn.Module, _: Any, __: Any) -> None:
        module._parameters.update(halves)

    return [
        module.register_forward_pre_hook(widen),
        module.register_forward_hook(restore, always_call=True),
    ]
