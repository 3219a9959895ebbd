"""Proves at load that ragged forwards of a network equal plain ones of the model it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.tree_attention import Rows
from verifier.errors import ModelRefused
from verifier.network import Network
from verifier.rows import ContextRows, ragged

NARROW = 6  # tokens a sliding window is narrowed to, so that a short text lies beyond it
BRANCH = 4  # nodes of each of the two branches
SHORTEST = 20
LONGEST_WINDOW = 512  # of a window that cannot be narrowed
EXACT = 1e-3
"""Largest difference of two logits in float32, in standard deviations of all logits."""
ROUGH = 0.25
"""The same of a quadratic mean in half precision, where rounding adds up from layer to layer."""


class Case(NamedTuple):
    """Two requests: one near the start of the context, one with two branches at its end."""

    near: tuple[int, ...]
    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], tuple[int, ...]]
    far: int  # position of the trunk's first token


class Reference(NamedTuple):
    """Logits of plain forwards: [near, V], then the trunk and both branches, [rows, V]."""

    case: Case
    logits: Tensor
    switch: int | None = None  # tokens beyond which a text's positions turn otherwise

    @property
    def stretched(self) -> frozenset[int]:
        """Which of the two requests are longer than the switch."""
        ends = (len(self.case.near), self.case.far + len(self.case.near))
        far = (self.switch is not None and end > self.switch for end in ends)
        return frozenset(slot for slot, is_far in enumerate(far) if is_far)


def make_case(vocabulary: int, context: int, window: int | None = None) -> Case:
    """Tokens beyond ``window``, and beyond every length at which positions are treated anew."""
    length = min(context, max(SHORTEST, (window or 0) + 2 * BRANCH + 6))
    drawn = np.random.Generator(np.random.Philox(7)).integers(0, vocabulary, 2 * length + BRANCH)
    tokens = [int(token) for token in drawn]
    near, trunk = tokens[:length], tokens[length : 2 * length - BRANCH]
    left, right = tokens[2 * length - BRANCH : 2 * length], tokens[2 * length :]
    return Case(tuple(near), tuple(trunk), (tuple(left), tuple(right)), context - length)


@contextmanager
def narrowed(config: Any) -> Iterator[int | None]:
    """Sliding windows of ``config`` shrink to ``NARROW`` for a while; masks follow at once.

    Gives the true window, None where nothing had to shrink.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if not isinstance(window, int) or window <= NARROW:
        yield None
        return
    text.sliding_window = NARROW
    try:
        yield window
    finally:
        text.sliding_window = window


@torch.inference_mode()
def plain_forwards(model: Any, case: Case) -> Reference:
    """What transformers itself computes, without a cache and with attention of its own."""
    [near] = _plain(model, [case.near], 0)
    left, right = _plain(model, [case.trunk + branch for branch in case.branches], case.far)
    return Reference(case, torch.cat([near, left, right[len(case.trunk) :]]))


def check(network: Network, reference: Reference, dtype: torch.dtype) -> float:
    """The largest difference of a logit (in half precision their mean), in standard deviations.

    ``dtype``: what ``network`` computes in, its cache included.

    Raises:
        ModelRefused: it is beyond rounding.
    """
    ours = _ragged_forwards(network, reference, dtype)
    wanted = reference.logits
    if ours.shape != wanted.shape or not bool(torch.isfinite(ours).all()):
        raise ModelRefused("its scores in a ragged batch are not finite or not as many")
    off = (ours - wanted).abs() / wanted.std().clamp_min(1e-12)
    exact = dtype == torch.float32
    difference = float(off.max() if exact else off.square().mean().sqrt())
    most = EXACT if exact else ROUGH
    if not difference <= most:
        raise ModelRefused(
            f"a ragged batch with a draft tree gives other scores than plain forwards: they "
            f"differ by {difference:.2g} standard deviations, expected at most {most:g}"
        )
    return difference


def _plain(model: Any, texts: Sequence[Sequence[int]], first: int) -> Tensor:
    """Logits [texts, length, V] of texts of one length that begin at position ``first``."""
    device = model.get_input_embeddings().weight.device
    positions = torch.arange(first, first + len(texts[0]), device=device).expand(len(texts), -1)
    found = model(
        input_ids=torch.tensor(texts, device=device), position_ids=positions, use_cache=False
    )
    logits: Tensor = found.logits.float()
    return logits


@torch.inference_mode()
def _ragged_forwards(network: Network, reference: Reference, dtype: torch.dtype) -> Tensor:
    """Both requests in two steps: a part of each prompt, then the rest with the tree."""
    case = reference.case
    cache = ContextRows(network.cache_shape._replace(dtype=dtype))
    cache.ensure(2, len(case.near) + 2 * BRANCH)
    near, trunk = len(case.near) // 3, len(case.trunk) // 2
    first = [Rows(0, 0, range(-1, near - 1), near), Rows(1, 0, range(-1, trunk - 1), trunk)]
    early = _forward(network, cache, first, [case.near[:near], case.trunk[:trunk]], reference)
    rest, chain = len(case.near) - near, len(case.trunk) - trunk
    tree = [
        *range(-1, chain + BRANCH - 1),
        chain - 1,
        *range(chain + BRANCH, chain + 2 * BRANCH - 1),
    ]
    second = [Rows(0, near, range(-1, rest - 1), rest), Rows(1, trunk, tree, len(tree))]
    nodes = case.branches[0] + case.branches[1]
    late = _forward(
        network, cache, second, [case.near[near:], case.trunk[trunk:] + nodes], reference
    )
    return torch.cat([early[:near], late[:rest], early[near:], late[rest:]])


def _forward(
    network: Network,
    cache: ContextRows,
    rows: Sequence[Rows],
    tokens: Sequence[Sequence[int]],
    reference: Reference,
) -> Tensor:
    batch = ragged(rows, tokens, cache.capacity)._replace(stretched=reference.stretched)
    batch.positions[rows[0].fresh :] += reference.case.far
    return network.forward(batch, cache)
