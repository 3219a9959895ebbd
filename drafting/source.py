"""What a draft source is, and what it is told about the request it drafts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from drafting.tree import DraftTree

COLDEST: Final = 1e-9
"""Temperatures above 0 count as this at least: far below what float32 logits can tell apart."""

ReferenceKind = Literal["prediction", "rejected_answer", "near_hit", "recent_answer"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A text, already in target tokens, that the output may repeat wholly or in part."""

    kind: ReferenceKind
    tokens: tuple[int, ...]


class PositionNoise(Protocol):
    """The target's own Gumbel noise: shared by all nodes of one depth (design: verification)."""

    def __call__(self, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Noise of ``tokens`` [K] at absolute position ``position``; float64 [K]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """What stays the same while one request is decoded."""

    prompt: tuple[int, ...]
    references: tuple[Reference, ...] = ()
    temperature: float = 0.0
    noise: PositionNoise | None = None  # None at temperature 0
    stop_ids: frozenset[int] = frozenset()  # tokens that end the output: nothing follows them
    owner: str = ""  # whose texts may serve as drafts: never another's


class DraftSession(Protocol):
    """One source at work on one request; closing it releases everything it holds."""

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """At most ``max_nodes`` nodes that continue ``context`` (prompt and output so far).

        ``context`` only ever grows by committed tokens between calls. The empty tree means
        "no guess", not an error.
        """
        ...

    def close(self) -> None:
        """Release state. Calling it twice is harmless."""
        ...


class Watcher(Protocol):
    """A session that learns from what the target says where its text does not go."""

    def watch(self, tree: DraftTree, guesses: Sequence[int]) -> None:
        """Hear of a verified ``tree``: ``guesses[0]`` is what the target deems likeliest after the
        context, ``guesses[1 + i]`` after node i, accepted or not.
        """
        ...


class Keeper(Protocol):
    """A source that keeps finished texts, each for its owner's later requests."""

    name: str

    def keep(self, owner: str, output: Sequence[int]) -> None:
        """Keep what a request of ``owner`` was answered."""
        ...


class DraftSource(Protocol):
    """One way to guess; adding a source is one file and one line of configuration."""

    name: str

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request."""
        ...


@dataclass(frozen=True, slots=True)
class NodeQuery:
    """Ask a draft model what follows ``context`` and then each of ``nodes`` of a partial tree.

    ``tree`` is the partial tree so far; ``nodes`` are indices into it (ROOT for the context end)
    whose next-token logits are wanted. Earlier nodes of the same tree need not be recomputed.
    """

    handle: int
    context: Sequence[int]
    tree_tokens: tuple[int, ...]
    tree_parents: tuple[int, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The ``width`` likeliest next tokens of each asked node, and log-probs: [nodes, width]."""

    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float64]  # of draft_logits / temperature 1, not noised


class DraftModel(Protocol):
    """A neural model over the same vocabulary; the verifier package supplies it."""

    def open(self) -> int:
        """Reserve per-request state and return its handle."""
        ...

    def read(self, handle: int, context: Sequence[int], end: int) -> None:
        """Take in ``context`` up to ``end``, so that no query has to."""
        ...

    def candidates(self, queries: Sequence[NodeQuery], *, width: int) -> Sequence[Candidates]:
        """Answer many requests in one forward; one ``Candidates`` for each query, same order."""
        ...

    def close(self, handle: int) -> None:
        """Free the state behind ``handle``."""
        ...


def watches(session: DraftSession) -> TypeGuard[Watcher]:
    """Whether ``session`` is a ``Watcher`` too."""
    return hasattr(session, "watch")


def keeps(source: DraftSource) -> TypeGuard[Keeper]:
    """Whether ``source`` is a ``Keeper`` too."""
    return hasattr(source, "keep")
