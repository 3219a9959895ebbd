"""Merge many draft trees into one: duplicates folded, every proposer remembered."""

from __future__ import annotations

from collections.abc import Sequence

from drafting.tree import DraftTree


def merge(trees: Sequence[DraftTree], *, max_nodes: int) -> DraftTree:
    """One tree of at most ``max_nodes`` nodes; earlier trees win where confidence is equal."""
    raise NotImplementedError
