"""The norm in three operations is PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from verifier.norm import RmsNorm


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("size", [48, 768])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])  # also where epsilon rules
def test_it_agrees_with_pytorch(dtype: torch.dtype, bound: float, size: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(size)
    x = (torch.randn((5, size), generator=generator) * scale).to(dtype)
    weight = torch.randn(size, generator=generator).to(dtype)
    exact = F.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    found = RmsNorm(weight, 1e-5)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), exact, rtol=bound, atol=bound * float(exact.abs().max())
    )


def test_zeros_stay_zeros() -> None:
    assert not RmsNorm(torch.ones(8), 1e-5)(torch.zeros(2, 8)).any()
