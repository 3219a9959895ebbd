"""Committing to pages against the obvious loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.errors import KernelError
from kernels.paged_commit import AcceptedRows, _reference, commit_to_pages


def ints(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def case(
    device: torch.device, *, page: int = 16, dtype: torch.dtype = torch.float32, width: int = 64
) -> tuple[Tensor, Tensor, Tensor, Tensor, AcceptedRows]:
    """A tree, a prompt chunk with a tree behind it, a whole chunk, a padding request."""
    generator = torch.Generator().manual_seed(5)
    # Pages as the engine stores them: layers inside, so that the layer is not the first stride.
    store = torch.randn((20, 3, page, 4, width), generator=generator).to(device, dtype)
    scratch = torch.randn((3, 60, 4, width), generator=generator).to(device, dtype)
    tables = np.random.default_rng(1).permutation(20)[:20].reshape(4, 5)
    accepted = AcceptedRows(
        starts=ints([0, 9, 30, 0], device),
        leads=ints([0, 6, 19, 0], device),
        path=ints([[0, 2, 7, -1], [0, 1, 4, 5], [-1] * 4, [-1] * 4], device),
        counts=ints([3, 4, 0, 0], device),
    )
    contexts = ints([page - 1, 2 * page, 3, 0], device)
    return store.transpose(0, 1), scratch, ints(tables.tolist(), device), contexts, accepted


@pytest.mark.parametrize("page", [8, 16, 64])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:]
)
def test_accepted_rows_follow_their_context_and_nothing_else_changes(
    place: torch.device, page: int, dtype: torch.dtype
) -> None:
    pages, *rest = case(place, page=page, dtype=dtype, width=80)
    expected = _reference(pages, *rest)
    before = pages.clone()
    commit_to_pages(pages, *rest, longest_lead=19, debug=True)
    assert torch.equal(pages, expected)
    assert not torch.equal(pages, before)


def test_garbage_outside_the_accepted_rows_is_never_read(place: torch.device) -> None:
    pages, scratch, tables, contexts, accepted = case(place)
    expected = _reference(pages, scratch, tables, contexts, accepted)
    used = [0, 2, 7, *range(9, 15), 15, 16, 19, 20, *range(30, 49)]
    rest = [row for row in range(60) if row not in used]
    scratch[:, rest] = torch.nan
    tables[0, 2:] = 2**30
    tables[3] = -(2**30)
    accepted.path[0, 3] = 2**30
    commit_to_pages(pages, scratch, tables, contexts, accepted, longest_lead=19)
    assert torch.equal(pages, expected)


def test_nothing_outside_any_buffer_is_read_or_written(place: torch.device, bands: Any) -> None:
    pages, scratch, tables, contexts, accepted = case(place, width=80)
    expected = _reference(pages, scratch, tables, contexts, accepted)
    inside = bands.around(pages)
    commit_to_pages(
        inside, *(bands.around(own) for own in (scratch, tables, contexts)),
        AcceptedRows(*(bands.around(own) for own in accepted)), longest_lead=19,
    )  # fmt: skip
    assert bands.intact()
    assert torch.equal(inside, expected)


def test_rows_beyond_the_table_are_dropped_not_written_elsewhere(place: torch.device) -> None:
    pages, scratch, tables, contexts, accepted = case(place)
    before = pages.clone()
    contexts[:] = 5 * 16 - 1
    commit_to_pages(pages, scratch, tables, contexts, accepted, longest_lead=19)
    changed = (pages != before).flatten(3).any(-1).any(0).nonzero().tolist()
    assert sorted(changed) == sorted([int(tables[request, 4]), 15] for request in range(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leads": [0, 20, 19, 0]}, r"got leads .*; expected 0 to 19"),
        ({"counts": [5, 0, 0, 0]}, r"got counts .*; expected 0 to 4"),
        ({"starts": [0, 9, 50, 0]}, r"got row 60; expected 0 <= row < 60"),
        ({"contexts": [80, 0, 0, 0]}, "expected room for them in a table of 80 tokens"),
        ({"tables": [[20] * 5] * 4}, r"got page 20; expected 0 <= page < 20"),
    ],
)
def test_values_out_of_range_are_found_when_asked_and_nothing_is_written(
    place: torch.device, change: dict[str, Any], message: str
) -> None:
    pages, scratch, tables, contexts, accepted = case(place)
    new = {name: ints(values, place) for name, values in change.items()}
    accepted = accepted._replace(**{k: v for k, v in new.items() if k in AcceptedRows._fields})
    before = pages.clone()
    with pytest.raises(KernelError, match=message):
        commit_to_pages(
            pages, scratch, new.get("tables", tables), new.get("contexts", contexts), accepted,
            longest_lead=19, debug=True,
        )  # fmt: skip
    assert torch.equal(pages, before)


@pytest.mark.parametrize(
    "bad",
    [
        {"pages": torch.zeros(3, 20, 16, 4, 64, dtype=torch.float64)},
        {"pages": torch.zeros(3, 20, 24, 4, 64)},
        {"pages": torch.zeros(2, 20, 16, 4, 64)},
        {"pages": torch.zeros(3, 20, 16, 8, 64)[:, :, :, ::2]},
        {"scratch": torch.zeros(3, 60, 4, 64, dtype=torch.float16)},
        {"scratch": torch.zeros(3, 4, 60, 64).transpose(1, 2)},
        {"tables": torch.zeros(3, 5, dtype=torch.int32)},
        {"contexts": torch.zeros(4, dtype=torch.int64)},
        {"contexts": torch.zeros(4, dtype=torch.int32, device="meta")},
    ],
)
def test_tensors_that_disagree_are_refused(bad: dict[str, Any]) -> None:
    names = ("pages", "scratch", "tables", "contexts", "accepted")
    given = dict(zip(names, case(torch.device("cpu")), strict=True)) | bad
    with pytest.raises(KernelError, match=r"got .*; expected"):
        commit_to_pages(*given.values())
