"""Parts a ragged batch by the side of the rotary switch on which each request lies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.rows import Ragged


class Side(NamedTuple):
    """Requests whose positions turn alike, and which rows of the whole batch are theirs."""

    batch: Ragged
    rows: Tensor  # [T of this side] int64, on the host
    stretched: bool


def sides(batch: Ragged) -> list[Side]:
    """``batch``, which lies on one device, as one or two batches."""
    flags = [request.slot in batch.stretched for request in batch.requests]
    if len(set(flags)) == 1:
        return [Side(batch, torch.arange(len(batch.tokens)), flags[0])]
    counts = torch.tensor([request.fresh for request in batch.requests])
    owners = torch.repeat_interleave(torch.tensor(flags), counts)
    both = ((owners == side).nonzero().squeeze(1) for side in (False, True))
    return [_side(batch, flags, rows, bool(side)) for side, rows in enumerate(both)]


def _side(batch: Ragged, flags: list[bool], rows: Tensor, stretched: bool) -> Side:
    there = rows.to(batch.tokens.device)
    assert isinstance(batch.writes, Tensor)  # of several requests
    part = Ragged(
        tuple(one for one, flag in zip(batch.requests, flags, strict=True) if flag == stretched),
        batch.tokens[there],
        batch.positions[there],
        batch.writes[there],
    )
    return Side(part, rows, stretched)
