"""Pages that differ by rounding agree, others do not."""

from __future__ import annotations

import pytest
import torch

from verifier.block_audit import Audit, alike

NAMES = [bytes([number]) * 32 for number in range(20)]


def page(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(5)
    values = torch.randn(3, 8, 4, 6)
    values[:, :, :2] *= 30  # keys are often much larger than values
    return values.to(dtype)


@pytest.mark.parametrize(("dtype", "noise"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_rounding_is_no_difference(dtype: torch.dtype, noise: float) -> None:
    one = page(dtype)
    assert alike(one, (one.float() * (1 + noise * torch.randn(one.shape))).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_a_layer_or_a_sign_that_is_another_is_a_difference(dtype: torch.dtype) -> None:
    for damage in ("row", "layer", "value"):
        other = page(dtype)
        if damage == "row":
            other[1, 3] = other[1, 4]
        elif damage == "layer":
            other[2] = other[1]
        else:
            other[0, 0, 3, other[0, 0, 3].abs().argmax()] *= -1
        assert not alike(page(dtype), other), damage


def test_one_page_in_so_many_is_chosen() -> None:
    audit = Audit(every=100)
    chosen = [audit.choose(NAMES) for _ in range(5)]
    assert chosen[:4] == [None] * 4
    name = chosen[4]
    assert name in NAMES
    assert audit.choose(NAMES) is not None, "due until one has come"
    audit.expect(name, page())
    assert audit.choose(NAMES) is None
    assert audit.agrees(NAMES[0] if name != NAMES[0] else NAMES[1], page()) is None
    assert audit.agrees(name, page()) is True
    assert audit.agrees(name, page()) is None, "once"
    assert Audit(every=0).choose(NAMES * 999) is None


def test_what_is_never_computed_is_not_remembered_for_ever() -> None:
    audit = Audit(every=1)
    for name in NAMES:
        audit.expect(name, page())
    assert sum(audit.agrees(name, page()) is not None for name in NAMES) == 8
