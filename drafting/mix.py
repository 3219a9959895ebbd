"""All draft sources of one target model at work together: plan, propose, merge, credit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from drafting.calibration import Outlook
from drafting.errors import InvalidControl, UnknownSource
from drafting.merge import merge, subtree
from drafting.model_draft import MAX_LEVELS, ModelAsk, ModelDrafter
from drafting.planner import Batch, HitRate, Planner
from drafting.reference_lookup import ReferenceTracker
from drafting.source import DraftRequest, DraftSession, DraftSource
from drafting.tree import EMPTY, ROOT, DraftTree

_LONGEST_REST: Final = 16  # steps a request whose drafts do not pay goes without lookups


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftControl:
    """What a request wishes; the engine copies it from the request's ``Speculation``.

    Raises:
        InvalidControl: ``max_nodes`` is negative.
    """

    mode: Literal["off", "auto", "fixed"] = "auto"
    sources: frozenset[str] | None = None  # None: every configured source
    max_nodes: int | None = None  # None: what the planner allows one request

    def __post_init__(self) -> None:
        if self.max_nodes is not None and self.max_nodes < 0:
            raise InvalidControl(f"got max_nodes {self.max_nodes}; expected 0 or more")


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

    def __init__(
        self,
        request: DraftRequest,
        control: DraftControl,
        sources: Sequence[DraftSource],
        hits: HitRate,
    ) -> None:
        """``hits``: of draft models in this request."""
        self.control = control
        self.outlook = Outlook()
        self.hits = hits
        self.proposed = EMPTY  # all that was proposed for the running step, verified or not
        self._request = request
        self._sources = sources
        self._sessions: dict[str, DraftSession] = {}
        self._credits: dict[str, Credit] = {}
        self._predictions = [
            ReferenceTracker(reference.tokens, from_start=True)
            for reference in request.references
            if reference.kind == "prediction"
        ]
        self._rest = 0
        self._fruitless = 0
        self._closed = False

    @property
    def credits(self) -> Mapping[str, Credit]:
        """By source name, only sources that proposed something."""
        return self._credits

    @property
    def accepted_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that the output took over, each in its place.

        Counted on the text, not on drafts, so that the load of the machine changes no usage.
        """
        return sum(len(tracker.taken) for tracker in self._predictions)

    @property
    def rejected_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that it did not."""
        offered = sum(len(tracker.tokens) for tracker in self._predictions)
        return offered - self.accepted_prediction_tokens

    @property
    def closed(self) -> bool:
        """Whether its sources are released."""
        return self._closed

    def session(self, source: DraftSource) -> DraftSession | None:
        """This request's session with ``source``, opened at first use; None if it wants none."""
        if self._closed or source not in self._sources:
            return None
        if source.name not in self._sessions:
            self._sessions[source.name] = source.open(self._request)
        return self._sessions[source.name]

    def rested(self) -> bool:
        """Whether to look for a draft at this step; drafts that do not pay are tried ever rarer."""
        if self._rest > 0:
            self._rest -= 1
        return self._rest == 0

    def note_choice(self, verified: int) -> None:
        """Learn how many nodes the planner let through."""
        self._fruitless = 0 if verified else self._fruitless + 1
        self._rest = 0 if verified else min(2**self._fruitless, _LONGEST_REST)

    def settle(self, tree: DraftTree, path: Sequence[int], tokens: Sequence[int]) -> None:
        """Book the outcome of a step."""
        accepted = frozenset(path)
        for node, names in enumerate(tree.sources):
            for name in names:
                before = self._credits.get(name, Credit())
                self._credits[name] = Credit(
                    before.proposed + 1, before.accepted + (node in accepted)
                )
        for tracker in self._predictions:
            for token in tokens:
                tracker.advance(token)

    def close(self) -> None:
        """Release every source's state. Calling it twice is harmless."""
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


class Drafting:
    """Every source configured for one target, and the planner that shares out the nodes."""

    def __init__(self, sources: Sequence[DraftSource], planner: Planner) -> None:
        """Sources named first win where two are equally confident.

        Raises:
            ValueError: two sources bear one name.
        """
        names = [source.name for source in sources]
        if len(set(names)) != len(names):
            raise ValueError(f"got sources {names}; expected distinct names")
        self.planner = planner
        self._sources = tuple(sources)
        self._lookups = tuple(s for s in sources if not isinstance(s, ModelDrafter))
        self._models = tuple(s for s in sources if isinstance(s, ModelDrafter))

    @property
    def names(self) -> frozenset[str]:
        """The configured sources."""
        return frozenset(source.name for source in self._sources)

    def check(self, control: DraftControl) -> None:
        """Refuse what cannot be honoured; call it when a request arrives.

        Raises:
            UnknownSource: a wished source is not configured; the message lists those that are.
            InvalidControl: more nodes than the configured maximum.
        """
        unknown = (control.sources or frozenset()) - self.names
        if unknown:
            raise UnknownSource(
                f"got sources {sorted(unknown)}; expected some of {sorted(self.names)}"
            )
        if (control.max_nodes or 0) > self.planner.max_nodes:
            raise InvalidControl(
                f"got max_nodes {control.max_nodes}; expected at most {self.planner.max_nodes}"
            )

    def open(self, request: DraftRequest, control: DraftControl) -> RequestDrafts:
        """Begin a request. Costs nothing until its first ``propose``.

        Raises:
            UnknownSource, InvalidControl: as ``check``.
        """
        self.check(control)
        wanted = self.names if control.sources is None else control.sources
        sources = [source for source in self._sources if source.name in wanted]
        return RequestDrafts(request, control, sources, HitRate(self.planner.hits.rate))

    def propose(self, asks: Sequence[Ask], *, other_tokens: int = 0) -> list[DraftTree]:
        """One merged tree for each ask, in order; draft models run once for the whole batch.

        ``other_tokens``: rows the step's forward holds besides (prefill chunks), which the cost
        model needs.
        """
        batch = Batch(len(asks), other_tokens)
        auto = bool(asks) and self.planner.worthwhile(batch)
        asks = [ask._replace(max_nodes=self._room(ask, auto)) for ask in asks]
        trees = [self._look_up(ask) for ask in asks]
        self._run_models(asks, trees, batch)
        for ask, tree in zip(asks, trees, strict=True):
            ask.session.proposed = tree
        return self._choose(asks, trees, batch)

    def credit(
        self, session: RequestDrafts, tree: DraftTree, path: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Tell the outcome of a step, also when ``tree`` was empty.

        ``path``: accepted nodes of ``tree``; ``tokens``: what was emitted (accepted and bonus,
        after the earliest-stop rule cut them).
        """
        proposed = session.proposed
        session.proposed = EMPTY
        self.planner.learn(proposed, tokens, session.outlook)
        for model in self._models:
            _learn_hits(proposed, tokens, model.name, (session.hits, self.planner.hits))
        session.settle(tree, path, tokens)

    def _room(self, ask: Ask, auto: bool) -> int:
        """Nodes this request may have proposed at this step."""
        control = ask.session.control
        if control.mode == "off" or ask.max_depth <= 0:
            return 0
        if control.mode == "auto" and not (auto and ask.session.rested()):
            return 0
        wished = self.planner.max_nodes if control.max_nodes is None else control.max_nodes
        return max(min(ask.max_nodes, wished), 0)

    def _look_up(self, ask: Ask) -> DraftTree:
        """What the sources that need no model propose, merged but not cut."""
        if ask.max_nodes <= 0:
            return EMPTY
        sessions = (ask.session.session(source) for source in self._lookups)
        trees = [
            session.propose(ask.context, max_nodes=ask.max_nodes)
            for session in sessions
            if session is not None
        ]
        return _no_deeper(merge(trees, max_nodes=ask.max_nodes * 2), ask.max_depth)

    def _run_models(self, asks: Sequence[Ask], trees: list[DraftTree], batch: Batch) -> None:
        """Let the draft models add to ``trees`` where that is expected to pay."""
        for model in self._models:
            levels = self._levels(model, asks, trees, batch)
            asked = []
            for place, depth in levels.items():
                session = asks[place].session.session(model)
                if session is not None:
                    ask = asks[place]
                    depth = min(depth, ask.max_depth)
                    asked.append((place, ModelAsk(session, ask.context, ask.max_nodes, depth)))
            drafts = model.propose_batch([ask for _, ask in asked])
            for (place, _), draft in zip(asked, drafts, strict=True):
                trees[place] = merge(
                    [trees[place], draft], max_nodes=len(trees[place]) + len(draft)
                )

    def _levels(
        self, model: ModelDrafter, asks: Sequence[Ask], trees: Sequence[DraftTree], batch: Batch
    ) -> dict[int, int]:
        """How deep ``model`` drafts for each request; those without are missing."""
        able = [place for place, ask in enumerate(asks) if ask.max_nodes > 0]
        able = [place for place in able if asks[place].session.session(model) is not None]
        fixed = [place for place in able if asks[place].session.control.mode == "fixed"]
        auto = [place for place in able if place not in fixed]
        plan = self.planner.plan_model(
            [self.planner.score(trees[place], asks[place].session.outlook) for place in auto],
            [asks[place].session.hits.rate for place in auto],
            batch,
        )
        return dict.fromkeys(fixed, MAX_LEVELS) | {auto[m]: plan.levels for m in plan.members}

    def _choose(
        self, asks: Sequence[Ask], trees: Sequence[DraftTree], batch: Batch
    ) -> list[DraftTree]:
        """Cut the trees to what will be verified."""
        chosen = [merge([tree], max_nodes=a.max_nodes) for a, tree in zip(asks, trees, strict=True)]
        auto = [
            place
            for place, ask in enumerate(asks)
            if ask.session.control.mode == "auto" and ask.max_nodes > 0
        ]
        rows = sum(len(tree) for tree in chosen) - sum(len(chosen[place]) for place in auto)
        selected = self.planner.select(
            [self.planner.score(chosen[place], asks[place].session.outlook) for place in auto],
            Batch(batch.requests, batch.other_rows + rows),
        )
        for place, tree in zip(auto, selected, strict=True):
            chosen[place] = tree
            asks[place].session.note_choice(len(tree))
        return chosen


def _no_deeper(tree: DraftTree, max_depth: int) -> DraftTree:
    depths = tree.depths()
    if max(depths, default=0) <= max_depth:
        return tree
    return subtree(tree, [node for node, depth in enumerate(depths) if depth <= max_depth])


def _learn_hits(
    tree: DraftTree, tokens: Sequence[int], name: str, rates: Sequence[HitRate]
) -> None:
    """Follow ``tokens`` through what source ``name`` proposed, until it has no child to offer."""
    node = ROOT
    for token in tokens:
        children = {
            tree.tokens[child]: child
            for child, parent in enumerate(tree.parents)
            if parent == node and name in tree.sources[child]
        }
        if not children:
            return
        for rate in rates:
            rate.observe(token in children)
        if token not in children:
            return
        node = children[token]
