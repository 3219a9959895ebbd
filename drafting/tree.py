"""A draft tree: candidate continuations of one request, stored parent-before-child."""

from __future__ import annotations

from dataclasses import dataclass

from drafting.errors import InvalidTree

ROOT = -1
"""Parent of a node that continues the committed context directly."""


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Candidate continuations of one request.

    ``tokens[i]`` is proposed after the path that ends at ``parents[i]`` (``ROOT`` for the
    committed context itself); ``parents[i] < i`` always. ``sources[i]`` names every source that
    proposed the node. Siblings carry distinct tokens. ``confidence[i]``, where given, is what the
    sources claim of P(node accepted | its parent accepted), in [0, 1]; the planner calibrates it.

    Raises:
        InvalidTree: lengths differ, a parent does not precede its child, or two siblings agree.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    sources: tuple[frozenset[str], ...] = ()
    confidence: tuple[float, ...] = ()  # empty: nothing claimed

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.parents) == len(self.sources):
            raise InvalidTree(
                f"got {len(self.tokens)} tokens, {len(self.parents)} parents and "
                f"{len(self.sources)} sources; expected three equal lengths"
            )
        if self.confidence and len(self.confidence) != len(self.tokens):
            raise InvalidTree(
                f"got {len(self.confidence)} confidences; expected none or {len(self.tokens)}"
            )
        for index, parent in enumerate(self.parents):
            if not ROOT <= parent < index:
                raise InvalidTree(
                    f"node {index} has parent {parent}; expected -1 <= parent < {index}"
                )
        if len(set(zip(self.parents, self.tokens, strict=True))) != len(self.tokens):
            raise InvalidTree("two siblings carry the same token; expected distinct tokens")

    def __len__(self) -> int:
        return len(self.tokens)

    def depths(self) -> tuple[int, ...]:
        """Depth of every node, 1 for children of the context: position is context + depth - 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return tuple(depths)


EMPTY = DraftTree()
"""No guess."""
