"""Attention of ragged rows, prefill chunks and draft trees alike, over their contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention_batches import MAX_PADDED_ROWS, Extent, spans
from kernels.errors import KernelError
from kernels.tree_words import ancestors, check_parents, depths

Mask = NDArray[np.float32]


class Rows(NamedTuple):
    """The rows of one request in one step.

    ``context`` rows are committed; ``parents`` describes the scratch rows stored right after
    them (-1: child of the context), of which the last ``fresh`` are computed in this step.
    """

    slot: int
    context: int
    parents: Sequence[int]
    fresh: int


class Segment(NamedTuple):
    """Neighbouring slots attended to in one call."""

    first_slot: int
    slots: int
    first_row: int
    rows: int  # over all slots
    padded: int  # fresh rows of each slot, padded to the longest
    length: int  # longest context with scratch
    mask: Tensor | None  # float32, added to scores: [slots, 1, padded * groups, length], or for
    # more than MAX_PADDED_ROWS rows [1, 1, padded, length]; None: everything is seen
    gather: Tensor | None  # [slots * padded] row of each padded place; None: nothing is padded
    scatter: Tensor | None  # [rows] padded place of each row


class Scoring(NamedTuple):
    """How scores become weights."""

    scale: float | None = None  # None: 1 / sqrt(D)
    softcap: float | None = None  # scores are bent to lie within it: softcap * tanh(s / softcap)
    sinks: Tensor | None = None  # [Hq] a score of each head that takes weight and gives no value


class AttentionPlan(NamedTuple):
    """What is the same for every layer of one step."""

    segments: tuple[Segment, ...]
    total_rows: int
    dtype: torch.dtype  # of queries, keys and values

    def to(self, device: torch.device) -> AttentionPlan:
        """The same on ``device``; nothing is copied where it already lies there."""
        if device.type == "cpu":  # where plans are made
            return self
        moved = (_moved(segment, device, self.dtype) for segment in self.segments)
        return self._replace(segments=tuple(moved))


def plan_attention(
    requests: Sequence[Rows], *, groups: int, dtype: torch.dtype, window: int | None = None
) -> AttentionPlan:
    """Decide once a step how its rows are attended to.

    Args:
        requests: in ascending order of slot; their fresh rows lie side by side in this order.
        groups: query heads for each key head.
        window: a row sees keys at most ``window - 1`` positions before its own; None: all.

    Raises:
        KernelError: slots out of order, a parent after its child, or nothing fresh.
    """
    _check_requests(requests)
    segments: list[Segment] = []
    first_row = 0
    extents = [Extent(request.slot, request.fresh, _length(request)) for request in requests]
    for start, end in spans(extents, groups):
        segment = _segment(requests[start:end], first_row, groups, window)
        segments.append(segment)
        first_row += segment.rows
    return AttentionPlan(tuple(segments), first_row, dtype)


def tree_attention(
    q: Tensor,
    kv: Tensor,
    plan: AttentionPlan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Let every row see its committed context, its own ancestors and itself.

    Shapes: T fresh rows, Hq query heads, Hkv key heads, D head size.
    Args:
        q: (T, Hq, D), float32 or bfloat16.
        kv: (slots, capacity, 2 * Hkv, D), q.dtype; keys in the first Hkv heads. Scratch rows of
            this step are already written behind each context.
        scale: of the scores; None is 1 / sqrt(D).
        softcap, sinks: as in ``Scoring``; either one costs a slower path.
    Returns: (T, Hq * D), q.dtype, freshly allocated.
    Raises: KernelError: shapes or dtypes disagree. Nothing is cast silently.
    Accuracy: error against float64 at most 1e-5 (float32) for unit-variance inputs.
    """
    _check_tensors(q, kv, plan)
    scoring = Scoring(scale, softcap, sinks)
    parts = [_attend(q, kv, segment, scoring) for segment in plan.segments]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _moved(segment: Segment, device: torch.device, dtype: torch.dtype) -> Segment:
    def there(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    mask = None if segment.mask is None else segment.mask.to(device, dtype)
    return segment._replace(mask=mask, gather=there(segment.gather), scatter=there(segment.scatter))


def _attend(q: Tensor, kv: Tensor, segment: Segment, scoring: Scoring) -> Tensor:
    if segment.padded > MAX_PADDED_ROWS:
        return _attend_long(q, kv, segment, scoring)
    return _attend_grouped(q, kv, segment, scoring)


def _attend_long(q: Tensor, kv: Tensor, segment: Segment, scoring: Scoring) -> Tensor:
    rows, key_heads = segment.rows, kv.shape[2] // 2
    heads, size = q.shape[1], q.shape[2]
    groups = heads // key_heads
    own = q[segment.first_row : segment.first_row + rows].view(rows, key_heads, groups, size)
    context = _workable(kv[segment.first_slot, : segment.length]).transpose(0, 1).unsqueeze(1)
    shape = (-1, groups, -1, -1)
    sinks = None if scoring.sinks is None else scoring.sinks.view(key_heads, groups, 1, 1)
    out = _weighted(
        _workable(own).permute(1, 2, 0, 3),
        context[:key_heads].expand(shape),
        context[key_heads:].expand(shape),
        segment.mask,
        scoring._replace(sinks=sinks),
    )
    return out.permute(2, 0, 1, 3).reshape(rows, heads * size).to(q.dtype)


def _attend_grouped(q: Tensor, kv: Tensor, segment: Segment, scoring: Scoring) -> Tensor:
    """All query heads of a key head as rows of one product."""
    key_heads, heads, size = kv.shape[2] // 2, q.shape[1], q.shape[2]
    groups, slots, padded = heads // key_heads, segment.slots, segment.padded
    own = q[segment.first_row : segment.first_row + segment.rows]
    if segment.gather is not None:
        own = own.index_select(0, segment.gather)
    own = own.view(slots, padded, key_heads, groups, size)
    context = kv[segment.first_slot : segment.first_slot + slots, : segment.length]
    own, context = _workable(own), _workable(context).transpose(1, 2)
    if scoring.sinks is not None:
        scoring = scoring._replace(sinks=_grouped_sinks(scoring.sinks, key_heads, padded))
    out = _weighted(
        own.transpose(1, 2).reshape(slots, key_heads, padded * groups, size),
        context[:, :key_heads],
        context[:, key_heads:],
        segment.mask,
        scoring,
    )
    if padded > 1:
        out = out.view(slots, key_heads, padded, groups, size).transpose(1, 2)
    flat = out.reshape(slots * padded, heads * size).to(q.dtype)
    return flat if segment.scatter is None else flat.index_select(0, segment.scatter)


def _workable(tensor: Tensor) -> Tensor:
    """In float32 where a CPU would compute in half precision.

    No slower, since keys are then read once and in order, and far less rounding: a row's sums
    depend less on who else is in its batch.
    """
    half = tensor.device.type == "cpu" and tensor.dtype is not torch.float32
    return tensor.float() if half else tensor


def _grouped_sinks(sinks: Tensor, key_heads: int, padded: int) -> Tensor:
    by_head = sinks.view(1, key_heads, 1, -1).expand(-1, -1, padded, -1)
    return by_head.reshape(1, key_heads, -1, 1)


def _weighted(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, by: Scoring) -> Tensor:
    """Values weighted by scores; ``by.sinks`` broadcasts against scores of one key."""
    if by.softcap is None and by.sinks is None:
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=by.scale)
    scores = q @ keys.transpose(-1, -2) * (q.shape[-1] ** -0.5 if by.scale is None else by.scale)
    if by.softcap is not None:
        scores = torch.tanh(scores / by.softcap) * by.softcap
    if mask is not None:
        scores = scores + mask
    if by.sinks is not None:
        sinks = by.sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return weights[..., : keys.shape[-2]] @ values


def _length(request: Rows) -> int:
    return request.context + len(request.parents)


def _segment(batch: Sequence[Rows], first_row: int, groups: int, window: int | None) -> Segment:
    padded = max(request.fresh for request in batch)
    length = max(_length(request) for request in batch)
    rows = sum(request.fresh for request in batch)
    gather, scatter = _padding(batch, padded)
    return Segment(
        first_slot=batch[0].slot,
        slots=len(batch),
        first_row=first_row,
        rows=rows,
        padded=padded,
        length=length,
        mask=_mask(batch, padded, length, groups, window),
        gather=gather,
        scatter=scatter,
    )


def _padding(batch: Sequence[Rows], padded: int) -> tuple[Tensor | None, Tensor | None]:
    if all(request.fresh == padded for request in batch):
        return None, None
    gather: list[int] = []
    scatter: list[int] = []
    start = 0
    for place, request in enumerate(batch):
        own = list(range(start, start + request.fresh))
        gather += own + own[:1] * (padded - request.fresh)
        scatter += range(place * padded, place * padded + request.fresh)
        start += request.fresh
    return torch.tensor(gather), torch.tensor(scatter)


def _mask(
    batch: Sequence[Rows], padded: int, length: int, groups: int, window: int | None
) -> Tensor | None:
    if padded == 1 and window is None and all(len(request.parents) == 1 for request in batch):
        return _decoding_mask(batch, length, groups)
    hidden = np.full((len(batch), padded, length), -np.inf, dtype=np.float32)
    for own, request in zip(hidden, batch, strict=True):
        own[request.fresh :, 0] = 0.0  # padding must see something, or it is NaN
        _reveal(own[: request.fresh], request, window)
    if len(batch) == 1 and not hidden.any():
        return None
    if padded <= MAX_PADDED_ROWS:
        hidden = hidden.repeat(groups, axis=1)
    return torch.from_numpy(hidden).unsqueeze(1)


def _decoding_mask(batch: Sequence[Rows], length: int, groups: int) -> Tensor | None:
    """Of one row each, which sees all of its context and itself."""
    lengths = np.array([_length(request) for request in batch])
    if lengths.min() == length:
        return None
    hidden = np.where(np.arange(length) < lengths[:, None], np.float32(0.0), np.float32(-np.inf))
    return torch.from_numpy(hidden[:, None, None].repeat(groups, axis=2))


def _reveal(hidden: Mask, request: Rows, window: int | None) -> None:
    """Zero in ``hidden`` [fresh, length] what each fresh row sees of its context and scratch."""
    scratch, context = len(request.parents), request.context
    hidden[:, :context] = 0.0
    seen = ancestors(request.parents)[scratch - request.fresh :]
    hidden[:, context : context + scratch][seen] = 0.0
    if window is not None:
        depth = depths(request.parents)
        key_positions = np.concatenate([np.arange(context), context + depth])
        own = context + depth[scratch - request.fresh :]
        hidden[:, : context + scratch][own[:, None] - key_positions[None, :] >= window] = -np.inf


def _check_requests(requests: Sequence[Rows]) -> None:
    slots = [request.slot for request in requests]
    if not slots or slots != sorted(set(slots)):
        raise KernelError(f"got slots {slots}; expected at least one, ascending and distinct")
    for request in requests:
        check_parents(request.parents)
        if not 1 <= request.fresh <= len(request.parents) or request.context < 0:
            raise KernelError(
                f"slot {request.slot} has {request.fresh} fresh rows of {len(request.parents)} "
                f"and context {request.context}; expected 1 <= fresh <= rows and context >= 0"
            )


def _check_tensors(q: Tensor, kv: Tensor, plan: AttentionPlan) -> None:
    if q.dim() != 3 or kv.dim() != 4 or q.shape[2] != kv.shape[3]:
        raise KernelError(f"got q {tuple(q.shape)} and kv {tuple(kv.shape)}; expected 3 and 4 "
                          "dimensions that agree in the last")  # fmt: skip
    if q.dtype != kv.dtype:
        raise KernelError(f"got q of {q.dtype} and kv of {kv.dtype}; expected one dtype")
    if kv.shape[2] % 2 or q.shape[1] % (kv.shape[2] // 2):
        raise KernelError(f"got {q.shape[1]} query heads over {kv.shape[2]} key and value heads; "
                          "expected a multiple of half of them")  # fmt: skip
    if q.shape[0] != plan.total_rows:
        raise KernelError(f"got {q.shape[0]} rows of q; expected the plan's {plan.total_rows}")


def _reference(
    q: Tensor,
    kv: Tensor,
    requests: Sequence[Rows],
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """``tree_attention`` in float64, one row at a time, by following parents."""
    key_heads = kv.shape[2] // 2
    groups = q.shape[1] // key_heads
    factor = q.shape[2] ** -0.5 if scale is None else scale
    out: list[Tensor] = []
    for request in requests:
        own = kv[request.slot].double()
        for row in range(len(request.parents) - request.fresh, len(request.parents)):
            path = _path(request.parents, row)
            keys = [*range(request.context), *(request.context + node for node in path)]
            keys = keys[-window:] if window is not None else keys
            keys_values = own[keys].repeat_interleave(groups, dim=1)
            query = q[len(out)].double()
            half = query.shape[0]
            scores = torch.einsum("hd,khd->hk", query, keys_values[:, :half]) * factor
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if sinks is not None:
                scores = torch.cat([scores, sinks.double().unsqueeze(1)], dim=1)
            weights = scores.softmax(-1)[:, : len(keys)]
            out.append(torch.einsum("hk,khd->hd", weights, keys_values[:, half:]))
    return torch.stack(out).flatten(1)


def _path(parents: Sequence[int], row: int) -> list[int]:
    path = [row]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path[::-1]
