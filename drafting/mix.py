"""All draft sources of one target model at work together: plan, propose, merge, credit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from drafting.planner import Planner
from drafting.source import DraftRequest, DraftSource
from drafting.tree import DraftTree


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftControl:
    """What a request wishes; the engine copies it from the request's ``Speculation``.

    Raises:
        InvalidControl: ``max_nodes`` below 0, or "fixed" without it.
    """

    mode: Literal["off", "auto", "fixed"] = "auto"
    sources: frozenset[str] | None = None  # None: every configured source
    max_nodes: int | None = None


class Ask(NamedTuple):
    """One running request at the start of a step."""

    session: RequestDrafts
    context: Sequence[int]  # prompt and committed output; only ever grows
    max_nodes: int  # room left by the engine (scratch, context length)
    max_depth: int  # tokens that may still be emitted, less the bonus token


class Credit(NamedTuple):
    """Nodes a source proposed (whether or not it was alone) and how many were accepted."""

    proposed: int = 0
    accepted: int = 0


class RequestDrafts:
    """The draft sessions of one request, with what they earned. Close it when the request ends."""

    @property
    def credits(self) -> Mapping[str, Credit]:
        """By source name, only sources that proposed something."""
        raise NotImplementedError

    @property
    def accepted_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that the output took over."""
        raise NotImplementedError

    @property
    def rejected_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that it did not."""
        raise NotImplementedError

    def close(self) -> None:
        """Release every source's state. Calling it twice is harmless."""
        raise NotImplementedError


class Drafting:
    """Every source configured for one target, and the planner that shares out the nodes."""

    def __init__(self, sources: Sequence[DraftSource], planner: Planner) -> None:
        raise NotImplementedError

    @property
    def names(self) -> frozenset[str]:
        """The configured sources."""
        raise NotImplementedError

    def check(self, control: DraftControl) -> None:
        """Refuse what cannot be honoured; call it when a request arrives.

        Raises:
            UnknownSource: a wished source is not configured; the message lists those that are.
        """
        raise NotImplementedError

    def open(self, request: DraftRequest, control: DraftControl) -> RequestDrafts:
        """Begin a request. Costs nothing until its first ``propose``.

        Raises:
            UnknownSource: as ``check``.
        """
        raise NotImplementedError

    def propose(self, asks: Sequence[Ask], *, other_tokens: int = 0) -> list[DraftTree]:
        """One merged tree for each ask, in order; draft models run once for the whole batch.

        ``other_tokens``: rows the step's forward holds besides (prefill chunks), which the cost
        model needs.
        """
        raise NotImplementedError

    def credit(
        self, session: RequestDrafts, tree: DraftTree, path: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Tell the outcome of a step, also when ``tree`` was empty.

        ``path``: accepted nodes of ``tree``; ``tokens``: what was emitted (accepted and bonus, after
        the earliest-stop rule cut them).
        """
        raise NotImplementedError
