"""A draft tree while it grows: what was proposed so far and how likely each node is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drafting.merge import claims, subtree
from drafting.tree import EMPTY, ROOT, DraftTree

Chance = Callable[[frozenset[str], float], float]
"""P(node accepted | its parent accepted), from its sources and the claim they make."""


def as_claimed(sources: frozenset[str], claim: float) -> float:
    """Believe every claim."""
    return claim


_CUT: Final = -2  # what lies too deep
_SURE: Final = 0.999  # odds of a certainty would be infinite


class Growth:
    """Nodes are only ever added and keep their numbers, so that a model may cache their state."""

    __slots__ = ("_raw", "below", "chance", "claims", "depths", "parents", "place", "prob",
                 "reach", "sources", "tokens")  # fmt: skip

    def __init__(self, tree: DraftTree = EMPTY, chance: Chance = as_claimed) -> None:
        """Begin with what ``tree`` holds."""
        self.chance = chance
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.sources: list[frozenset[str]] = []
        self.claims: list[float] = []
        self.depths: list[int] = []
        self.prob: list[float] = []  # of a node, given its parent
        self._raw: list[float] = []  # the same, before siblings are weighed against each other
        self.reach: list[float] = []  # of a node: the product along its path
        self.below: dict[int, list[int]] = {}  # children by parent
        self.place: dict[tuple[int, int], int] = {}  # (parent, token): node
        self.graft(tree)

    def __len__(self) -> int:
        return len(self.tokens)

    def graft(self, tree: DraftTree, max_depth: int | None = None) -> None:
        """Fold ``tree`` in, as deep as ``max_depth``."""
        moved: list[int] = []
        nodes = zip(tree.tokens, tree.parents, tree.sources, claims(tree), strict=True)
        for token, parent, names, claim in nodes:
            place = parent if parent == ROOT else moved[parent]
            if place == _CUT or (place != ROOT and self.depths[place] == max_depth):
                moved.append(_CUT)
            else:
                moved.append(self.add(place, token, names, claim))

    def add(self, parent: int, token: int, names: frozenset[str], claim: float) -> int:
        """The node of ``token`` below ``parent``, which from now on ``names`` propose too.

        Claims are probabilities; one that is not a number claims nothing.
        """
        claim = min(max(0.0, claim), 1.0)
        node = self.place.get((parent, token))
        if node is None:
            return self._append(parent, token, names, claim)
        if not names <= self.sources[node] or claim > self.claims[node]:
            self._support(node, names, claim)
        return node

    def reached(self, node: int) -> float:
        """P(the path to ``node`` is accepted); of ``ROOT``, 1."""
        return 1.0 if node == ROOT else self.reach[node]

    def open_share(self, node: int) -> float:
        """P(the path to ``node`` is accepted and no child of it holds what comes next)."""
        covered = sum(self.prob[child] for child in self.below.get(node, ()))
        return max(1.0 - covered, 0.0) * self.reached(node)

    def tree(self) -> DraftTree:
        """All of it."""
        return DraftTree(
            tuple(self.tokens), tuple(self.parents), tuple(self.sources), tuple(self.claims)
        )

    def cut(self, nodes: list[int]) -> DraftTree:
        """Only ``nodes``: ascending, and every node's parent among them."""
        whole = self.tree()
        return whole if len(nodes) == len(whole) else subtree(whole, nodes)

    def _append(self, parent: int, token: int, names: frozenset[str], claim: float) -> int:
        node = len(self.tokens)
        self.place[parent, token] = node
        self.tokens.append(token)
        self.parents.append(parent)
        self.sources.append(names)
        self.claims.append(claim)
        self.depths.append(1 if parent == ROOT else self.depths[parent] + 1)
        raw = self.chance(names, claim)
        self._raw.append(raw)
        self.prob.append(raw)
        self.reach.append(raw * self.reached(parent))
        siblings = self.below.setdefault(parent, [])
        siblings.append(node)
        if len(siblings) > 1:
            self._share_out(parent)
        return node

    def _support(self, node: int, names: frozenset[str], claim: float) -> None:
        """More sources, or a surer one, for a node that is known."""
        self.sources[node] |= names
        self.claims[node] = claim = max(self.claims[node], claim)
        self._raw[node] = self.chance(self.sources[node], claim)
        self._share_out(self.parents[node])

    def _share_out(self, parent: int) -> None:
        """Siblings that promise more than 1 together contradict each other: their odds decide."""
        siblings = self.below[parent]
        shares = [self._raw[node] for node in siblings]
        if sum(shares) > 1.0:
            odds = [share / (1.0 - min(share, _SURE)) for share in shares]
            whole = sum(odds)
            shares = [part / whole for part in odds]
        for node, share in zip(siblings, shares, strict=True):
            if share != self.prob[node]:
                self.prob[node] = share
                self._refresh(node)

    def _refresh(self, changed: int) -> None:
        """Reach of a node and of what lies below it; children come after their parents."""
        self.reach[changed] = self.prob[changed] * self.reached(self.parents[changed])
        touched = {changed}
        for node in range(changed + 1, len(self.tokens)):
            parent = self.parents[node]
            if parent in touched:
                touched.add(node)
                self.reach[node] = self.prob[node] * self.reach[parent]
