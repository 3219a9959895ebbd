"""Moves accepted scratch rows behind their contexts in the pages: all layers in one launch."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from kernels.backend import triton_serves
from kernels.errors import KernelError
from kernels.paged_memory import expect
from kernels.tiles import DTYPES

ROWS: Final = 16  # places one program fills
LAYERS: Final = 8
BLOCK: Final = 256


class AcceptedRows(NamedTuple):
    """Which scratch rows of each of B requests become context.

    The first ``leads`` rows always do: the part of a prompt that was computed in this step. Then
    ``counts`` rows of ``path``, counted from row ``leads``: what ``walk_trees`` found.
    """

    starts: Tensor  # [B] int32: first scratch row of each request
    leads: Tensor  # [B] int32
    path: Tensor  # [B, K] int32
    counts: Tensor  # [B] int32


def commit_to_pages(
    pages: Tensor,
    scratch: Tensor,
    tables: Tensor,
    contexts: Tensor,
    accepted: AcceptedRows,
    *,
    longest_lead: int = 0,
    debug: bool = False,
) -> None:
    """Copy accepted rows to their places behind the context; nothing waits for the device.

    Shapes: L layers, P pages, S scratch rows, B requests, H heads of keys and values, D head size.
    Args:
        pages: (L, P, page, H, D), float16, bfloat16 or float32, changed in place; page: a power of
            two. The last two dimensions are contiguous, as one row.
        scratch: (L, S, H, D) in the same dtype, laid out so.
        tables: (B, M) int32: pages of each request. A row beyond its M pages is not written.
        contexts: (B,) int32: tokens committed before this step. Not advanced here.
        accepted: of every request.
        longest_lead: at least every entry of ``accepted.leads``.
        debug: look at pages and rows as well; waits for the device.
    Raises: KernelError: shapes, dtypes, devices or strides disagree; with ``debug`` a page, row or
        lead out of range. Raised before anything is written.
    Accuracy: exact. Nothing but the places of accepted rows is written.
    """
    _check(pages, scratch, tables, contexts, accepted)
    if debug:
        _check_values(pages, scratch, tables, contexts, accepted, longest_lead)
    requests, steps = accepted.path.shape
    if not requests or not pages.shape[0]:
        return
    if triton_serves(pages.device):
        from kernels.triton_commit import commit_accepted

        layers, width = pages.shape[0], pages.shape[3] * pages.shape[4]
        commit_accepted[(requests, -(-(longest_lead + steps) // ROWS), -(-layers // LAYERS))](
            pages, scratch, tables, contexts, *accepted, *pages.stride()[:3],
            *scratch.stride()[:2], tables.stride(0), tables.shape[1], layers,
            PAGE=pages.shape[2], STEPS=steps, WIDTH=width, ROWS=ROWS, LAYERS=LAYERS, BLOCK=BLOCK,
            num_warps=4,
        )  # fmt: skip
    else:
        source, page, at = _moves(pages, tables, contexts, accepted)
        pages[:, page, at] = scratch[:, source]


def _moves(
    pages: Tensor, tables: Tensor, contexts: Tensor, accepted: AcceptedRows
) -> tuple[Tensor, Tensor, Tensor]:
    """Scratch row, page and place in it of every accepted row, [A] int64 each."""
    size, width = pages.shape[2], tables.shape[1]
    sources: list[int] = []
    targets: list[tuple[int, int]] = []
    given = (accepted.starts, accepted.leads, accepted.path, accepted.counts, contexts, tables)
    for start, lead, path, count, context, table in zip(
        *(tensor.tolist() for tensor in given), strict=True
    ):
        rows = [*range(lead), *(lead + row for row in path[:count])][: width * size - context]
        sources += [start + row for row in rows]
        columns = range(context, context + len(rows))
        targets += [(table[column // size], column % size) for column in columns]
    device = pages.device
    page, at = torch.tensor(targets, dtype=torch.int64, device=device).view(-1, 2).unbind(1)
    return torch.tensor(sources, dtype=torch.int64, device=device), page, at


def _check(
    pages: Tensor, scratch: Tensor, tables: Tensor, contexts: Tensor, accepted: AcceptedRows
) -> None:
    if pages.dtype not in DTYPES:
        raise KernelError(f"got pages of {pages.dtype}; expected one of {DTYPES}")
    expect("pages", pages, (None, None, None, None, None), pages.dtype, pages.device)
    layers, _, size, heads, width = pages.shape
    expect("scratch", scratch, (layers, None, heads, width), pages.dtype, pages.device)
    for name, tensor in (("pages", pages), ("scratch", scratch)):
        if heads > 1 and tensor.stride(-2) != width:
            raise KernelError(
                f"got {name} with strides {tensor.stride()}; expected {width} as the last but one"
            )
    if size & (size - 1) or not size:
        raise KernelError(f"got pages of {size} tokens; expected a power of two")
    device = pages.device
    expect("accepted.path", accepted.path, (None, None), torch.int32, device, contiguous=True)
    requests = accepted.path.shape[0]
    expect("tables", tables, (requests, None), torch.int32, device)
    expect("contexts", contexts, (requests,), torch.int32, device, contiguous=True)
    for name in ("starts", "leads", "counts"):
        own = getattr(accepted, name)
        expect(f"accepted.{name}", own, (requests,), torch.int32, device, contiguous=True)


def _check_values(
    pages: Tensor,
    scratch: Tensor,
    tables: Tensor,
    contexts: Tensor,
    accepted: AcceptedRows,
    longest_lead: int,
) -> None:
    leads, counts = accepted.leads.tolist(), accepted.counts.tolist()
    steps = accepted.path.shape[1]
    if any(not 0 <= lead <= longest_lead for lead in leads):
        raise KernelError(f"got leads {leads}; expected 0 to {longest_lead}")
    if any(not 0 <= count <= steps for count in counts):
        raise KernelError(f"got counts {counts}; expected 0 to {steps}")
    room = tables.shape[1] * pages.shape[2]
    for context, lead, count in zip(contexts.tolist(), leads, counts, strict=True):
        if not 0 <= context <= room - lead - count:
            raise KernelError(
                f"got {lead + count} rows behind a context of {context}; expected room for them "
                f"in a table of {room} tokens"
            )
    source, page, _ = _moves(pages, tables, contexts, accepted)
    for name, values, end in (("page", page, pages.shape[1]), ("row", source, scratch.shape[1])):
        wrong = values[(values < 0) | (values >= end)]
        if wrong.numel():
            raise KernelError(f"got {name} {int(wrong[0])}; expected 0 <= {name} < {end}")


def _reference(
    pages: Tensor, scratch: Tensor, tables: Tensor, contexts: Tensor, accepted: AcceptedRows
) -> Tensor:
    """The pages afterwards, row by row."""
    pages = pages.clone()
    size = pages.shape[2]
    for request in range(tables.shape[0]):
        lead, count = int(accepted.leads[request]), int(accepted.counts[request])
        for place in range(lead + count):
            row = place if place < lead else lead + int(accepted.path[request, place - lead])
            column = int(contexts[request]) + place
            page = int(tables[request, column // size])
            pages[:, page, column % size] = scratch[:, int(accepted.starts[request]) + row]
    return pages
