"""Merge many draft trees into one: duplicates folded, every proposer remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from drafting.tree import EMPTY, ROOT, DraftTree

UNCLAIMED: Final = 0.5
"""Confidence of a node whose source claims none."""


def merge(trees: Sequence[DraftTree], *, max_nodes: int) -> DraftTree:
    """One tree of at most ``max_nodes`` nodes, those likeliest to be reached.

    A node proposed by several trees appears once, with all their sources and the highest of their
    confidences. Nodes are kept by the product of confidences along their path; where it is equal,
    earlier trees come first.
    """
    found = [tree for tree in trees if tree]
    if max_nodes <= 0 or not found:
        return EMPTY
    folded = found[0] if len(found) == 1 and found[0].confidence else _fold(found)
    if len(folded) <= max_nodes:
        return folded
    return subtree(folded, likeliest(path_probs(folded), max_nodes))


def claims(tree: DraftTree) -> tuple[float, ...]:
    """Confidence of every node, also where none is claimed."""
    return tree.confidence or (UNCLAIMED,) * len(tree)


def path_probs(tree: DraftTree) -> list[float]:
    """Product of confidences from the root to each node: the probability of reaching it."""
    probs: list[float] = []
    for parent, claim in zip(tree.parents, claims(tree), strict=True):
        probs.append(claim if parent == ROOT else claim * probs[parent])
    return probs


def likeliest(probs: Sequence[float], count: int) -> list[int]:
    """The ``count`` nodes of highest path probability, ascending; a parent never misses.

    A child is at most as probable as its parent and comes after it, so the cut keeps ancestors.
    """
    ranked = sorted(range(len(probs)), key=lambda node: (-probs[node], node))
    return sorted(ranked[:count])


def subtree(tree: DraftTree, nodes: Iterable[int]) -> DraftTree:
    """``tree`` cut down to ``nodes``: ascending, and every node's parent among them."""
    kept = list(nodes)
    number = {ROOT: ROOT} | {node: new for new, node in enumerate(kept)}
    return DraftTree(
        tuple(tree.tokens[node] for node in kept),
        tuple(number[tree.parents[node]] for node in kept),
        tuple(tree.sources[node] for node in kept),
        tuple(tree.confidence[node] for node in kept) if tree.confidence else (),
    )


def chain(tokens: Sequence[int], confidence: Sequence[float], source: str) -> DraftTree:
    """A tree without branches."""
    count = len(tokens)
    return DraftTree(
        tuple(tokens),
        tuple(range(ROOT, ROOT + count)),
        (frozenset((source,)),) * count,
        tuple(confidence),
    )


def _fold(trees: Sequence[DraftTree]) -> DraftTree:
    """Union of all paths, numbered in order of first appearance."""
    place: dict[tuple[int, int], int] = {}
    sources: list[frozenset[str]] = []
    confidence: list[float] = []
    for tree in trees:
        moved: list[int] = []
        nodes = zip(tree.tokens, tree.parents, tree.sources, claims(tree), strict=True)
        for token, parent, names, claim in nodes:
            key = (parent if parent == ROOT else moved[parent], token)
            node = place.setdefault(key, len(place))
            moved.append(node)
            if node == len(sources):
                sources.append(names)
                confidence.append(claim)
            else:
                sources[node] |= names
                confidence[node] = max(confidence[node], claim)
    return DraftTree(
        tuple(token for _, token in place),
        tuple(parent for parent, _ in place),
        tuple(sources),
        tuple(confidence),
    )
