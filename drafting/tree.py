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
    proposed the node. Siblings carry distinct tokens.

    Raises:
        InvalidTree: lengths differ, a parent does not precede its child, or two siblings agree.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    sources: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.parents) == len(self.sources):
            raise InvalidTree(
                f"got {len(self.tokens)} tokens, {len(self.parents)} parents and "
                f"{len(self.sources)} sources; expected three equal lengths"
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
