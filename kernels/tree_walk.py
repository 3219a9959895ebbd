"""Verification on the device: the target's own token of every row, and the walk along them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.backend import triton_serves
from kernels.errors import KernelError
from kernels.paged_memory import expect
from kernels.philox import NOISE_CEILING, token_noise
from kernels.tiles import DTYPES, padded
from kernels.tree_words import check_parents

SHARE: Final = 8192  # tokens that one program looks at
BLOCK: Final = 1024  # of them at once
SPARE: Final = NOISE_CEILING + 1.0  # what trails by more is not looked at; gaps to 1 stay exact


class DraftRows(NamedTuple):
    """R rows with logits: for each request its last committed token, then its draft nodes."""

    starts: Tensor  # [B + 1] int32: first row of each request, then the end of the last
    parents: Tensor  # [R] int32, counted from the request's first row, which has -1
    tokens: Tensor  # [R] int32: the token of each row; of first rows: any
    positions: Tensor  # [R] int64: where each row's token stands


class Drawing(NamedTuple):
    """How each request's tokens are drawn."""

    keys: Tensor  # [B, 2] int64: the two 32-bit words of its noise key
    temperatures: Tensor  # [B] float64; 0: the likeliest token, without noise


class Walk(NamedTuple):
    """Where each walk went. Past its ``counts``: rows and tokens -1, gaps 0."""

    rows: Tensor  # [B, K] int32: accepted rows, the first is 0
    tokens: Tensor  # [B, K] int64: the target's token after each; the last is the bonus token
    gaps: Tensor  # [B, K] float32: its score's distance from the second best; exact up to 1
    counts: Tensor  # [B] int32: tokens found; 0: the first row holds NaN or nothing to choose


def walk_trees(
    logits: Tensor,
    rows: DraftRows,
    drawing: Drawing,
    *,
    widest: int,
    longest: int,
    out: Walk | None = None,
    debug: bool = False,
) -> Walk:
    """Walk every tree as long as it carries the target's own tokens; nothing waits for the device.

    The token after a row at position t is ``argmax(logits / temperature + noise(key, t + 1))``, a
    tie going to the lowest id. The walk goes on at the child that carries it, and ends before a row
    that has no finite best score.

    Shapes: R rows, V tokens, B requests.
    Args:
        logits: (R, V), float16, bfloat16 or float32, processed but not divided by the temperature;
            what was filtered is -inf. Last stride 1.
        rows: of all requests side by side. Siblings carry distinct tokens.
        drawing: keys and temperatures.
        widest: at least the rows of any request.
        longest: K, at least the rows of any path; a longer walk is cut there and stays right.
        out: (B, K) int32, int64 and float32, and (B,) int32, contiguous; None allocates it.
        debug: look at starts, parents and temperatures; waits for the device.
    Returns: ``out``, all of it written.
    Raises: KernelError: shapes, dtypes or devices disagree; with ``debug`` a parent that does not
        come before its child, or a request wider than ``widest``.
    Accuracy: the words of the noise are exact, its logarithms float64; on CPUs the noise has the
        bits of the engine's own.
    """
    if logits.dtype not in DTYPES:
        raise KernelError(f"got logits of {logits.dtype}; expected one of {DTYPES}")
    expect("logits", logits, (None, None), logits.dtype, logits.device)
    if widest < 1 or longest < 1:
        raise KernelError(f"got widest {widest} and longest {longest}; expected at least 1")
    _check(logits, rows, drawing)
    out = _empty(rows, longest) if out is None else out
    _check_out(out, rows, longest)
    if debug:
        _check_values(rows, drawing, widest)
    if not drawing.keys.shape[0]:
        return out
    if triton_serves(logits.device):
        _launch(logits, rows, drawing, widest, out)
    else:
        _walk_with_numpy(logits, rows, drawing, out)
    return out


def _launch(logits: Tensor, rows: DraftRows, drawing: Drawing, widest: int, out: Walk) -> None:
    from kernels.triton_walk import walk_rows

    scores, choices = _choose_on_device(logits, rows, drawing)
    walk_rows[(drawing.keys.shape[0],)](
        *out, scores[0], scores[1], choices, rows.starts, rows.parents, rows.tokens,
        choices.shape[1], STEPS=out.rows.shape[1], ROWS=max(16, padded(widest)), num_warps=4,
    )  # fmt: skip


def _choose_on_device(logits: Tensor, rows: DraftRows, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Best and second best score [2, R, shares] and best token [R, shares] of each share."""
    from kernels.triton_walk import choose_tokens

    (count, vocabulary), requests = logits.shape, drawing.keys.shape[0]
    shares = -(-vocabulary // SHARE)
    scores = torch.empty((2, count, shares), dtype=torch.float64, device=logits.device)
    choices = torch.empty((count, shares), dtype=torch.int32, device=logits.device)
    choose_tokens[(count, shares)](
        scores[0], scores[1], choices, logits, rows.starts, rows.positions, drawing.keys,
        drawing.temperatures, logits.stride(0), requests, vocabulary, SPARE,
        REQUESTS=padded(requests), SHARE=SHARE, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return scores, choices


def _empty(rows: DraftRows, longest: int) -> Walk:
    requests, device = rows.starts.shape[0] - 1, rows.starts.device
    shape = (requests, longest)
    return Walk(
        torch.empty(shape, dtype=torch.int32, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(requests, dtype=torch.int32, device=device),
    )


def _check(logits: Tensor, rows: DraftRows, drawing: Drawing) -> None:
    count, device = logits.shape[0], logits.device
    expect("keys", drawing.keys, (None, 2), torch.int64, device, contiguous=True)
    requests = drawing.keys.shape[0]
    temperatures = drawing.temperatures
    expect("temperatures", temperatures, (requests,), torch.float64, device, contiguous=True)
    expect("starts", rows.starts, (requests + 1,), torch.int32, device, contiguous=True)
    expect("parents", rows.parents, (count,), torch.int32, device, contiguous=True)
    expect("tokens", rows.tokens, (count,), torch.int32, device, contiguous=True)
    expect("positions", rows.positions, (count,), torch.int64, device, contiguous=True)


def _check_out(out: Walk, rows: DraftRows, longest: int) -> None:
    requests, device = rows.starts.shape[0] - 1, rows.starts.device
    shape = (requests, longest)
    expect("out.rows", out.rows, shape, torch.int32, device, contiguous=True)
    expect("out.tokens", out.tokens, shape, torch.int64, device, contiguous=True)
    expect("out.gaps", out.gaps, shape, torch.float32, device, contiguous=True)
    expect("out.counts", out.counts, (requests,), torch.int32, device, contiguous=True)


def _check_values(rows: DraftRows, drawing: Drawing, widest: int) -> None:
    edges, parents = rows.starts.tolist(), rows.parents.tolist()
    if edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(parents):
        raise KernelError(f"got starts {edges}; expected ascending, from 0 to {len(parents)}")
    for first, end in pairwise(edges):
        check_parents(parents[first:end])
        if end - first > widest:
            raise KernelError(f"got a request of {end - first} rows; expected at most {widest}")
    wrong = [value for value in drawing.temperatures.tolist() if not 0.0 <= value < math.inf]
    if wrong:
        raise KernelError(f"got temperature {wrong[0]}; expected a finite number from 0")


def _walk_with_numpy(logits: Tensor, rows: DraftRows, drawing: Drawing, out: Walk) -> None:
    """Only rows on the walked path are looked at."""
    parents, tokens = rows.parents.tolist(), rows.tokens.tolist()
    positions, temperatures = rows.positions.tolist(), drawing.temperatures.tolist()
    out.rows.fill_(-1)
    out.tokens.fill_(-1)
    out.gaps.zero_()
    for request, (first, end) in enumerate(pairwise(rows.starts.tolist())):
        key = (int(drawing.keys[request, 0]), int(drawing.keys[request, 1]))
        below = {(parents[row], tokens[row]): row - first for row in range(first + 1, end)}
        node: int | None = 0 if end > first else None
        step = 0
        while node is not None and step < out.rows.shape[1]:
            own = logits[first + node].double().numpy()
            position = positions[first + node] + 1
            chosen = _choose(own, temperatures[request], position, key)
            if chosen is None:
                break
            out.rows[request, step] = node
            out.tokens[request, step], out.gaps[request, step] = chosen
            node = below.get((node, chosen[0]))
            step += 1
        out.counts[request] = step


def _choose(
    logits: NDArray[np.float64], temperature: float, position: int, key: tuple[int, int]
) -> tuple[int, float] | None:
    """The best token and its distance from the second best; None: nothing finite is best."""
    highest = logits.max()
    if not np.isfinite(highest):  # NaN is the maximum of whatever holds it
        return None
    if temperature == 0.0:
        return _best(np.arange(len(logits)), logits)
    scaled = logits / temperature
    top = int(scaled.argmax())
    bar = scaled[top] + token_noise(np.array([top]), position, key)[0] - SPARE
    hopeful = np.flatnonzero(scaled > bar)
    return _best(hopeful, scaled[hopeful] + token_noise(hopeful, position, key))


def _best(tokens: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[int, float]:
    index = int(scores.argmax())
    others = np.delete(scores, index)
    gap = float(scores[index] - others.max()) if len(others) else math.inf
    return int(tokens[index]), gap


def _reference(
    logits: list[float], temperature: float, position: int, key: tuple[int, int]
) -> tuple[int, float]:
    """Token and gap of one row, in plain Python numbers, every token's noise drawn."""
    scores = [
        logit if temperature == 0.0 else logit / temperature + _noise(token, position, key)
        for token, logit in enumerate(logits)
    ]
    best = max(range(len(scores)), key=lambda token: (scores[token], -token))
    rest = [score for token, score in enumerate(scores) if token != best]
    return best, scores[best] - max(rest, default=-math.inf)


def _noise(token: int, position: int, key: tuple[int, int]) -> float:
    counter = (token, position % 2**32, position >> 32, 0)
    for turn in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        keys = [(part + turn * weyl) % 2**32
                for part, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]  # fmt: skip
        counter = ((second >> 32) ^ counter[1] ^ keys[0], second % 2**32,
                   (first >> 32) ^ counter[3] ^ keys[1], first % 2**32)  # fmt: skip
    return -math.log(-math.log((counter[0] + 0.5) / 2**32))
