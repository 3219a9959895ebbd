"""Linear layers in every layout give what PyTorch's own give."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from verifier.linear import Linear

ROWS = (0, 1, 2, 7, 16, 65)
SHAPES = ((96, 48), (700, 500))  # [outputs, inputs]: below and above where plain weights are kept
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def make(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_a_layer_gives_what_pytorch_gives(
    dtype: torch.dtype, shape: tuple[int, int], biased: bool, rows: int
) -> None:
    weight = make(dtype, *shape) * 0.05
    bias = make(dtype, shape[0]) if biased else None
    x, residual = make(dtype, rows, shape[1]), make(dtype, rows, shape[0])
    layer, untouched = Linear(weight, bias), residual.clone()
    with torch.inference_mode():
        product, added = layer(x), layer.added(residual, x)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    bound = TOLERANCE[dtype]
    assert product.dtype == added.dtype == dtype
    torch.testing.assert_close(product.double(), exact, rtol=bound, atol=bound)
    torch.testing.assert_close(added.double(), exact + residual.double(), rtol=bound, atol=bound)
    assert torch.equal(residual, untouched)


def test_a_row_is_the_same_whoever_shares_its_batch_up_to_rounding() -> None:
    layer, x = Linear(make(torch.float32, 700, 500) * 0.05), make(torch.float32, 64, 500)
    with torch.inference_mode():
        together = layer(x)
        alone = torch.cat([layer(row) for row in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_single_rows_of_small_layers_and_large_ones_take_different_ways() -> None:
    small, large = Linear(make(torch.float32, 96, 48)), Linear(make(torch.float32, 700, 500))
    assert small._plain is not None
    assert large._plain is None
