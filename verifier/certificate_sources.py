"""Draft sources that try to lead a verifier astray: right, wrong, wide, deep, confusing trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from drafting.source import DraftRequest, DraftSession, ReferenceKind
from drafting.tree import EMPTY, ROOT, DraftTree

TRUTH: Final[ReferenceKind] = "near_hit"
"""Kind of the reference from which an adversary knows what the plain loop wrote."""

_CORRUPTION: Final = 0.3  # share of wrong tokens in a corrupted copy
_ON_PATH: Final = 0.4  # share of a bush's nodes that continue the right path

Edge = tuple[int, int]  # parent, token


@dataclass(frozen=True, slots=True)
class Scene:
    """What an adversary sees: the tokens that will come, its dice, and how much it may draw."""

    rest: Sequence[int]
    dice: np.random.Generator
    max_nodes: int
    vocabulary: int

    def any_token(self) -> int:
        """A token drawn uniformly."""
        return int(self.dice.integers(self.vocabulary))

    def other_than(self, token: int) -> int:
        """A token drawn uniformly from all but ``token``."""
        return (token + 1 + int(self.dice.integers(self.vocabulary - 1))) % self.vocabulary


def _chain(tokens: Sequence[int]) -> list[Edge]:
    return [(place - 1, token) for place, token in enumerate(tokens)]


def _deep(scene: Scene) -> list[Edge]:
    """Nothing but what will come: every node is accepted."""
    return _chain(scene.rest[: scene.max_nodes])


def _corrupted(scene: Scene) -> list[Edge]:
    """What will come, with wrong tokens here and there."""
    tokens = scene.rest[: scene.max_nodes]
    wrong = scene.dice.random(len(tokens)) < _CORRUPTION
    return _chain([scene.other_than(t) if bad else t for t, bad in zip(tokens, wrong, strict=True)])


def _wrong(scene: Scene) -> list[Edge]:
    """Branches in which no token is the one that will come, wherever they are."""
    edges: list[Edge] = []
    depth = {ROOT: 0}
    for node in range(scene.max_nodes):
        parent = int(scene.dice.integers(ROOT, node))
        place = depth[parent]
        depth[node] = place + 1
        right = scene.rest[place] if place < len(scene.rest) else 0
        edges.append((parent, scene.other_than(right)))
    return edges


def _wide(scene: Scene) -> list[Edge]:
    """One level only; the right token is among its nodes."""
    tokens = scene.dice.permutation(scene.vocabulary)[: scene.max_nodes].tolist()
    if scene.rest and scene.rest[0] not in tokens:
        tokens[int(scene.dice.integers(len(tokens)))] = scene.rest[0]
    return [(ROOT, int(token)) for token in tokens]


def _bush(scene: Scene) -> list[Edge]:
    """The right path, its nodes scattered among wrong branches of every depth."""
    return _scattered(scene, scene.any_token)


def _echo(scene: Scene) -> list[Edge]:
    """A bush with the same few tokens on every branch: only parents tell them apart."""
    few = [*scene.rest[:2], scene.any_token()]
    return _scattered(scene, lambda: few[int(scene.dice.integers(len(few)))])


def _scattered(scene: Scene, token: Callable[[], int]) -> list[Edge]:
    edges: list[Edge] = []
    seen: set[Edge] = set()
    end, done = ROOT, 0  # of the right path
    for _ in range(4 * scene.max_nodes):
        if len(edges) == scene.max_nodes:
            break
        on_path = done < len(scene.rest) and scene.dice.random() < _ON_PATH
        edge = (end, scene.rest[done]) if on_path else _anywhere(scene, len(edges), token)
        if edge in seen:
            if on_path:
                end, done = edges.index(edge), done + 1
            continue
        seen.add(edge)
        edges.append(edge)
        if on_path:
            end, done = len(edges) - 1, done + 1
    return edges


def _anywhere(scene: Scene, nodes: int, token: Callable[[], int]) -> Edge:
    return int(scene.dice.integers(ROOT, nodes)), token()


def _random(scene: Scene) -> list[Edge]:
    """Any tree of any tokens, of any size."""
    size = int(scene.dice.integers(0, scene.max_nodes + 1))
    return [_anywhere(scene, node, scene.any_token) for node in range(size)]


SHAPES: Final[Mapping[str, Callable[[Scene], list[Edge]]]] = {
    "deep": _deep,
    "corrupted": _corrupted,
    "wrong": _wrong,
    "wide": _wide,
    "bush": _bush,
    "echo": _echo,
    "random": _random,
}


class Adversary:
    """Source "adversary_<shape>": deterministic in its shape and the context."""

    def __init__(self, shape: str, *, vocabulary: int) -> None:
        self.name = f"adversary_{shape}"
        self._shape = SHAPES[shape]
        self._vocabulary = vocabulary

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request; what will come is read from its reference of kind ``TRUTH``."""
        truth = [one.tokens for one in request.references if one.kind == TRUTH]
        return _AdversarySession(self, request, truth[0] if truth else ())

    def tree(self, context: Sequence[int], rest: Sequence[int], max_nodes: int) -> DraftTree:
        """A tree of at most ``max_nodes`` nodes, with claims that mean nothing."""
        dice = np.random.default_rng([len(self.name), len(context), *context[-2:], max_nodes])
        edges = self._shape(Scene(rest, dice, max_nodes, self._vocabulary))
        edges = _without_twins(edges)
        if not edges:
            return EMPTY
        return DraftTree(
            tuple(token for _, token in edges),
            tuple(parent for parent, _ in edges),
            (frozenset((self.name,)),) * len(edges),
            tuple(dice.uniform(0.5, 1.0, len(edges)).tolist()),
        )


def adversaries(vocabulary: int) -> list[Adversary]:
    """One of every shape."""
    return [Adversary(shape, vocabulary=vocabulary) for shape in SHAPES]


class _AdversarySession:
    """One adversary at work on one request."""

    def __init__(self, source: Adversary, request: DraftRequest, truth: Sequence[int]) -> None:
        self._source = source
        self._prompt_tokens = len(request.prompt)
        self._truth = truth

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """A tree that continues ``context``."""
        if max_nodes <= 0:
            return EMPTY
        rest = self._truth[len(context) - self._prompt_tokens :]
        return self._source.tree(context, rest, max_nodes)

    def close(self) -> None:
        """Nothing is held."""


def _without_twins(edges: Sequence[Edge]) -> list[Edge]:
    """Siblings that carry one token become one node; their children move over."""
    place: dict[Edge, int] = {}
    moved: list[int] = []
    for parent, token in edges:
        edge = (parent if parent == ROOT else moved[parent], token)
        moved.append(place.setdefault(edge, len(place)))
    return list(place)
