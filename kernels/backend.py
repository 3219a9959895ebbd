"""Who computes: Triton on a GPU or under its interpreter, PyTorch on a CPU."""

from __future__ import annotations

import os
import sys

import torch


def interpreting() -> bool:
    """Whether our Triton kernels run in its interpreter: decided when they are first imported."""
    module = sys.modules.get("kernels.triton_attention")
    if module is None:
        return os.environ.get("TRITON_INTERPRET") == "1"
    return type(module.attend_items).__name__ == "InterpretedFunction"


def triton_serves(device: torch.device) -> bool:
    """Whether tensors on ``device`` go to Triton. On a CPU only where it is interpreted."""
    return device.type == "cuda" or interpreting()
