"""All draft sources of one target model at work together: plan, propose, merge, credit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from drafting.calibration import HitRate, learn_hits
from drafting.cost import Load
from drafting.errors import InvalidControl, UnknownSource
from drafting.failures import Failures
from drafting.goodput import Goodput
from drafting.growth import Growth
from drafting.merge import likeliest
from drafting.model_draft import Level, ModelAsk, ModelDrafter, ModelSession, session_of, thorough
from drafting.planner import Batch, Planner
from drafting.reading import Behind, share_out
from drafting.request_drafts import Credit, DraftControl, RequestDrafts
from drafting.source import DraftRequest, DraftSource
from drafting.thrift import Thrift, most_gained
from drafting.tree import EMPTY, DraftTree

__all__ = ["Ask", "Credit", "DraftControl", "Drafting", "RequestDrafts"]

_LONGEST_REST: Final = 16  # steps a request whose drafts do not pay goes without lookups
_LOOKUP_SHARE: Final = 0.005  # of a step's time that fruitless lookups may take
_LOOKUP_MEMORY: Final = 0.9
_TRIAL_NODES: Final = 2  # verified of a trial's draft


class Ask(NamedTuple):
    """One running request at the start of a step."""

    session: RequestDrafts
    context: Sequence[int]  # prompt and committed output; only ever grows
    max_nodes: int  # room left by the engine (scratch, context length)
    max_depth: int  # tokens that may still be emitted, less the bonus token


class _Draft(NamedTuple):
    """A request that drafts at this step."""

    place: int  # among the asks
    session: RequestDrafts
    context: Sequence[int]
    max_nodes: int
    max_depth: int
    fixed: bool
    growth: Growth


class Drafting:
    """Every source configured for one target, and the planner that shares out the nodes."""

    def __init__(
        self,
        sources: Sequence[DraftSource],
        planner: Planner,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Sources named first win where two are equally confident.

        Raises:
            ValueError: two sources bear one name.
        """
        names = [source.name for source in sources]
        if len(set(names)) != len(names):
            raise ValueError(f"got sources {names}; expected distinct names")
        self.planner = planner
        self._clock = clock
        self._sources = tuple(sources)
        self._lookups = tuple(s for s in sources if not isinstance(s, ModelDrafter))
        self._models = tuple(s for s in sources if isinstance(s, ModelDrafter))
        self._looked_up = frozenset(source.name for source in self._lookups)
        self._lookup_seconds = 0.0  # of one request, at the pace of start
        self._failures = Failures()
        self._goodput = Goodput()

    @property
    def names(self) -> frozenset[str]:
        """The configured sources."""
        return frozenset(source.name for source in self._sources)

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each source failed, by name; those that never did are missing."""
        return self._failures.counts

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
        hits = {model.name: HitRate(model.hits) for model in self._models if model.name in wanted}
        return RequestDrafts(request, control, sources, hits, self._failures)

    def propose(self, asks: Sequence[Ask], *, other_tokens: int = 0) -> list[DraftTree]:
        """One merged tree for each ask, in order; draft models run once for the whole batch.

        ``other_tokens``: rows the step's forward holds besides (prefill chunks), which the cost
        model needs.
        """
        trees = [EMPTY] * len(asks)
        batch = Batch(len(asks), other_tokens, float(sum(len(ask.context) for ask in asks)))
        drafts = self._drafts(asks, batch, self._pays(batch))
        if not drafts:
            return trees
        self._look_up(drafts, batch)
        trial = self._run_models(drafts, batch) or self._lookup_trial(drafts, batch)
        chosen = self._choose(drafts, batch, trial)
        self._note_lookups(drafts, chosen, batch)
        for draft, nodes in zip(drafts, chosen, strict=True):
            if draft.growth.tokens:
                draft.session.proposed = draft.growth.tree()
                trees[draft.place] = draft.growth.cut(nodes)
        return trees

    def credit(
        self,
        session: RequestDrafts,
        tree: DraftTree,
        path: Sequence[int],
        tokens: Sequence[int],
        guesses: Sequence[int] | None = None,
    ) -> None:
        """Tell the outcome of a step, also when ``tree`` was empty.

        ``path``: accepted nodes of ``tree``; ``tokens``: what was emitted (accepted and bonus,
        after the earliest-stop rule cut them); ``guesses`` [1 + N]: the target's likeliest token
        after the context and after each node of ``tree``, where the caller has them.
        """
        self._goodput.earn(len(tokens))
        proposed = session.proposed
        if proposed:
            session.proposed = EMPTY
            self.planner.learn(proposed, tokens, session.outlook)
            for model in self._models:
                own = session.hits.get(model.name)
                if own is not None:
                    learn_hits(proposed, tokens, model.name, own)
        if guesses is not None:
            session.watch(tree, guesses)
        session.settle(tree, path, tokens)

    def _pays(self, batch: Batch) -> bool:
        """Whether drafting does at this load, by the clock."""
        cost = self.planner.cost
        prompts = cost.added(batch.requests, batch.other_rows, batch.mean_context)
        return self._goodput.begin(batch.requests, self._clock(), cost.pace.actual(prompts))

    def _drafts(self, asks: Sequence[Ask], batch: Batch, pays: bool) -> list[_Draft]:
        """Who drafts at this step; where drafting does not pay, only who insists on it."""
        able = [place for place, ask in enumerate(asks) if _able(ask)]
        if not able:
            return []
        planner = self.planner
        planner.earn_trial(batch)
        auto = pays and (
            planner.worthwhile(batch) or planner.affords_trial(planner.base_seconds(batch))
        )
        drafts = []
        for place in able:
            session, context, room, depth = asks[place]
            fixed = session.control.mode == "fixed"
            if fixed or auto:
                nodes = session.control.max_nodes
                nodes = min(room, self.planner.max_nodes if nodes is None else nodes)
                growth = Growth(chance=self.planner.odds(session.outlook))
                drafts.append(_Draft(place, session, context, nodes, depth, fixed, growth))
        return drafts

    def _look_up(self, drafts: Sequence[_Draft], batch: Batch) -> None:
        """What the sources that need no model propose."""
        if not self._lookups:
            return
        looking = [draft for draft in drafts if draft.fixed or draft.session.rested()]
        if not looking:
            return
        started = self._clock()
        for draft in looking:
            self._consult(draft)
        seconds = self.planner.cost.pace.standard(self._clock() - started) / len(looking)
        self._lookup_seconds += (1.0 - _LOOKUP_MEMORY) * (seconds - self._lookup_seconds)

    def _consult(self, draft: _Draft) -> None:
        for source in self._lookups:
            try:
                session = draft.session.session(source)
                if session is not None:
                    tree = session.propose(draft.context, max_nodes=draft.max_nodes)
                    if tree:
                        draft.growth.graft(tree, draft.max_depth)
            except Exception:
                self._failed(source, [draft])

    def _lookup_trial(self, drafts: Sequence[_Draft], batch: Batch) -> Growth | None:
        """A tree to verify where none seems to pay, lest that be a mistake for good."""
        if self.planner.worthwhile(batch):
            return None
        found = [draft.growth for draft in drafts if draft.growth.tokens and not draft.fixed]
        self.planner.spend(self.planner.base_seconds(batch))
        return found[0] if found else None

    def _run_models(self, drafts: Sequence[_Draft], batch: Batch) -> Growth | None:
        """Let the draft models add where that is expected to pay; the trial among it, if any."""
        trial = None
        for model in self._models:
            try:
                trial = self._run_model(model, drafts, batch) or trial
            except Exception:
                self._failed(model, drafts)
        return trial

    def _run_model(
        self, model: ModelDrafter, drafts: Sequence[_Draft], batch: Batch
    ) -> Growth | None:
        asks = [self._model_ask(model, draft) for draft in self._hopeful(model, drafts, batch)]
        if model.cost is None:
            model.grow(self._up_to_date(model, [ask for ask in asks if ask.fixed]), thorough)
            return None
        if not asks:
            return None
        thrift = Thrift(self.planner, model.cost, batch)
        thrift.start([draft.growth.reach for draft in drafts if not draft.fixed])
        self._grow(model, self._up_to_date(model, asks, thrift.promises), thrift)
        return thrift.trial.growth if thrift.trial is not None else None

    def _failed(self, source: DraftSource, drafts: Sequence[_Draft]) -> None:
        """A draft is a guess and may fail: these requests go on without the source.

        A source that fails again and again is left out for everybody.
        """
        self._failures.note(source.name)
        for draft in drafts:
            draft.session.leave(source)

    def _grow(self, model: ModelDrafter, asks: Sequence[ModelAsk], thrift: Thrift) -> None:
        last = self._clock()

        def note(level: Level) -> None:
            nonlocal last
            now = self._clock()
            thrift.note(level, now - last)
            last = now

        model.grow(asks, thrift, note)

    def _hopeful(self, model: ModelDrafter, drafts: Sequence[_Draft], batch: Batch) -> list[_Draft]:
        """Those that want ``model``, less those for whom it would have too much to read."""
        base = self.planner.base_seconds(batch)
        trial = model.cost is None or self.planner.affords_trial(base)
        hopeful = []
        for draft in drafts:
            session = _model_session(model, draft)
            if session is None or not session.follows(draft.context):
                continue
            unread = session.unread(draft.context)
            if trial or draft.fixed or not unread or self._may_pay(model, draft, unread, batch):
                hopeful.append(draft)
        return hopeful

    def _may_pay(self, model: ModelDrafter, draft: _Draft, unread: int, batch: Batch) -> bool:
        """Whether what drafts may bring at most is worth reading so much."""
        if model.cost is None:
            return False
        rate = draft.session.hits[model.name].rate
        seconds = model.cost.added(1, unread, batch.mean_context)
        earned = seconds * batch.requests / self.planner.base_seconds(batch)
        return most_gained(draft.session.emitted(draft.context), rate) > earned

    def _up_to_date(
        self,
        model: ModelDrafter,
        asks: Sequence[ModelAsk],
        promises: Callable[[ModelAsk], bool] = lambda ask: True,
    ) -> list[ModelAsk]:
        """Those whose texts ``model`` has read, or can in its first forward.

        Of a text that is too long for that it reads a part, where its request promises enough.
        """
        unread = [session_of(ask).unread(ask.context) for ask in asks]
        if sum(unread) <= model.read_rows:
            return list(asks)
        behind = [
            Behind(rows, ask.fixed or promises(ask)) for rows, ask in zip(unread, asks, strict=True)
        ]
        turns = share_out(behind, model.read_rows)
        if turns.chunk is not None:
            self._read(model, asks[turns.chunk], turns.rows)
        return [asks[place] for place in turns.ready]

    def _read(self, model: ModelDrafter, ask: ModelAsk, rows: int) -> None:
        """Read a part of a text, in a forward of its own."""
        session, started = session_of(ask), self._clock()
        read = session.read(ask.context, rows)
        if model.cost is not None:
            context = float(len(ask.context) - session.unread(ask.context))
            model.cost.observe(Load(read, 1, context, read * context), self._clock() - started)

    def _model_ask(self, model: ModelDrafter, draft: _Draft) -> ModelAsk:
        session = _model_session(model, draft)
        assert session is not None
        return ModelAsk(
            session,
            draft.context,
            draft.max_nodes,
            draft.growth,
            max_depth=min(draft.max_depth, session.room(draft.context)),
            ends=draft.session.stop_ids,
            emitted=draft.session.emitted(draft.context),
            hit_rate=draft.session.hits[model.name].rate,
            fixed=draft.fixed,
        )

    def _choose(
        self, drafts: Sequence[_Draft], batch: Batch, trial: Growth | None
    ) -> list[list[int]]:
        """The nodes of each tree that will be verified."""
        if not any(draft.growth.tokens for draft in drafts):
            return [[] for _ in drafts]
        fixed = {
            place: likeliest(draft.growth.reach, draft.max_nodes)
            for place, draft in enumerate(drafts)
            if draft.fixed
        }
        rows = batch.other_rows + sum(len(nodes) for nodes in fixed.values())
        auto = [place for place in range(len(drafts)) if place not in fixed]
        shared = self.planner.share_out(
            [drafts[place].growth.reach for place in auto],
            batch._replace(other_rows=rows),
            [drafts[place].max_nodes for place in auto],
        )
        for place, nodes in zip(auto, shared, strict=True):
            draft = drafts[place]
            if draft.growth is trial and len(nodes) < _TRIAL_NODES:
                nodes = likeliest(draft.growth.reach, min(_TRIAL_NODES, draft.max_nodes))
            fixed[place] = nodes
        return [fixed[place] for place in range(len(drafts))]

    def _note_lookups(
        self, drafts: Sequence[_Draft], chosen: Sequence[Sequence[int]], batch: Batch
    ) -> None:
        """Let those rest whose lookups lead to nothing, so that these take little of the time."""
        share = batch.requests * self._lookup_seconds / self.planner.base_seconds(batch)
        longest = min(int(share / _LOOKUP_SHARE), _LONGEST_REST)
        for draft, nodes in zip(drafts, chosen, strict=True):
            found = any(self._looked_up & draft.growth.sources[node] for node in nodes)
            draft.session.note_lookup(fruitful=found, longest_rest=longest)


def _model_session(model: ModelDrafter, draft: _Draft) -> ModelSession | None:
    session = draft.session.session(model)
    assert session is None or isinstance(session, ModelSession)
    return session


def _able(ask: Ask) -> bool:
    session, control = ask.session, ask.session.control
    if control.mode == "off" or ask.max_depth <= 0 or ask.max_nodes <= 0 or session.closed:
        return False
    if control.mode == "fixed":
        return control.max_nodes != 0
    # Many answers are a token or two: one that has not begun is drafted for where a text was given.
    begun = session.has_references or session.emitted(ask.context) > 0
    return begun and control.max_nodes != 0
