"""Decodes every request of one model: chunk, draft, one forward, verify, commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drafting.cost import StepCost
from drafting.mix import Ask, Drafting
from drafting.tree import DraftTree
from verifier.acceptance import Verdict
from verifier.cache import Committed, KeyValueCache
from verifier.choice import Choice, Counts
from verifier.errors import VerifierError
from verifier.loading import LoadedModel
from verifier.peaks import Peaks, peaks
from verifier.request import StepOutput, TokenLogprob
from verifier.rows import ragged
from verifier.scheduler import Chunk, Scheduler
from verifier.work import Work, load_of, stretched_slots, wanted_rows

EMPTY = DraftTree()


class Scores(NamedTuple):
    """What the forward says of the wanted rows."""

    logits: Tensor  # [R, V] float32, on the host
    values: NDArray[np.float32]  # the same memory
    peaks: Peaks


class Decoder:
    """The engine's work for one model. Not thread-safe."""

    def __init__(
        self,
        model: LoadedModel,
        scheduler: Scheduler,
        counts: Counts,
        *,
        drafting: Drafting | None,
        cost: StepCost,
        max_nodes: int,
    ) -> None:
        self.model = model
        self.scheduler = scheduler
        self.counts = counts
        self.drafting = drafting
        self._cost = cost
        self._max_nodes = max_nodes

    @property
    def cache(self) -> KeyValueCache:
        """The model's keys and values."""
        return self.scheduler.cache

    @property
    def draft_failures(self) -> dict[str, int]:
        """By the source that failed, or by what drafting was asked."""
        of_sources = self.drafting.failures if self.drafting is not None else {}
        return {**of_sources, **self.counts.draft_failures}

    def step(self) -> list[StepOutput]:
        """One forward for everybody, and what came of it."""
        started = time.perf_counter()
        chunks = self.scheduler.chunks()
        if not chunks:
            return []
        works = self._drafted(chunks)
        works.sort(key=lambda work: work.chunk.choice.lease.slot)  # type: ignore[union-attr]
        load, drafted = load_of(works), time.perf_counter()
        outputs = self._settle(works, self._forward(works))
        self._cost.observe(load, time.perf_counter() - drafted)
        self.counts.steps += 1
        self.counts.batch_size = len(works)
        self.counts.step_seconds += time.perf_counter() - started
        return outputs

    def abandon(self, error: str) -> list[StepOutput]:
        """End every running choice with ``error`` after a step broke; waiting ones may go on."""
        running = list(self.scheduler.running)
        outputs = [_failed(choice, error) for choice in running]
        for choice in running:
            self.scheduler.finish(choice)
        return outputs

    def _drafted(self, chunks: Sequence[Chunk]) -> list[Work]:
        """Hang a draft tree on every chunk that ends with the newest token."""
        asking = [chunk for chunk in chunks if self._may_draft(chunk)]
        if not asking or self.drafting is None:
            return [Work(chunk, EMPTY) for chunk in chunks]
        started = time.perf_counter()
        other = sum(len(chunk.tokens) for chunk in chunks) - len(asking)
        trees = self._trees(self.drafting, asking, other)
        share = (time.perf_counter() - started) / len(asking)
        found = {id(chunk): tree for chunk, tree in zip(asking, trees, strict=True)}
        for chunk in asking:
            chunk.choice.tally.draft_seconds += share
        return [Work(chunk, found.get(id(chunk), EMPTY)) for chunk in chunks]

    def _trees(self, drafting: Drafting, asking: Sequence[Chunk], other: int) -> list[DraftTree]:
        """One for each chunk. Whoever's drafting fails goes on without drafts, and nobody else."""
        try:
            trees = drafting.propose([self._ask(chunk) for chunk in asking], other_tokens=other)
        except Exception:
            if len(asking) > 1:  # whose fault is it?
                return [self._trees(drafting, [chunk], other)[0] for chunk in asking]
            self.counts.note_draft_failure("propose")
            asking[0].choice.undraftable = True
            return [EMPTY]
        return [self._known(chunk, tree) for chunk, tree in zip(asking, trees, strict=True)]

    def _known(self, chunk: Chunk, tree: DraftTree) -> DraftTree:
        """The tree, unless it holds what the target has no embedding for."""
        tokens = tree.tokens
        if not tokens or (min(tokens) >= 0 and max(tokens) < self.model.vocab_size):
            return tree
        self.counts.note_draft_failure("unknown token")
        chunk.choice.undraftable = True
        return EMPTY

    def _may_draft(self, chunk: Chunk) -> bool:
        choice = chunk.choice
        return (
            chunk.last
            and choice.drafts is not None
            and not choice.undraftable
            and choice.output.remaining > 1
        )

    def _ask(self, chunk: Chunk) -> Ask:
        choice = chunk.choice
        assert choice.drafts is not None
        deepest = min(choice.output.remaining - 1, self._room(chunk), choice.depth_left)
        return Ask(choice.drafts, choice.tokens, self._max_nodes, deepest)

    def _room(self, chunk: Chunk) -> int:
        """Accepted rows that could be committed behind ``chunk`` without pages that others hold."""
        lease = chunk.choice.lease
        assert lease is not None
        return self.cache.room(lease) - len(chunk.tokens)

    def _forward(self, works: Sequence[Work]) -> Scores:
        rows = [work.rows() for work in works]
        cache = self.cache.rows
        cache.ensure(len(works), max(row.context + len(row.parents) for row in rows))
        batch = ragged(rows, [work.tokens() for work in works], cache.capacity)
        batch = batch._replace(stretched=stretched_slots(works))
        wanted = torch.tensor(wanted_rows(works), dtype=torch.int64)
        started = time.perf_counter()
        logits = self.model.network.forward(batch, cache, wanted).cpu()
        self.counts.forward_seconds += time.perf_counter() - started
        values = logits.numpy()
        return Scores(logits, values, peaks(values))

    def _settle(self, works: Sequence[Work], scores: Scores) -> list[StepOutput]:
        """Verify every choice, then commit all of them in one copy, then free the finished."""
        outputs: list[StepOutput] = []
        committed: list[Committed] = []
        finished: list[Choice] = []
        finite, first = scores.peaks.finite(), 0
        for work in works:
            scored = len(work.scored())
            rows = range(first + scored, first + scored + len(work.deciding()))
            own: list[StepOutput] = []
            if not finite and not scores.peaks.rows(first, rows.stop).finite():
                own = self._unreadable(work)
            else:
                _score_prompt(work, scores, first)
                if work.chunk.last:
                    own = [self._verified(work, scores, rows, committed)]
                else:
                    committed.append(_committed(work, ()))
            finished += [work.chunk.choice for output in own if output.receipt is not None]
            outputs += own
            first = rows.stop
        self.cache.commit(committed)
        for choice in finished:
            self.scheduler.finish(choice)
        return outputs

    def _verified(
        self, work: Work, scores: Scores, rows: range, committed: list[Committed]
    ) -> StepOutput:
        """Take what the target accepts of one tree, up to the earliest stop."""
        choice = work.chunk.choice
        if choice.output.remaining <= 0:
            return self._scored_only(work, committed)
        found = scores.peaks.rows(rows.start, rows.stop)
        values = scores.values[rows.start : rows.stop]
        try:
            verdict = choice.sampler.verify(work.tree, values, peaks=found)
        except VerifierError as error:  # its own doing: nobody else's request ends for it
            return _failed(choice, str(error))
        if verdict.path:
            verdict = _cut(verdict, self._room(work.chunk))
        prompt_logprobs = _prompt_logprobs(choice)
        taken = choice.output.take(verdict.tokens)
        tokens = verdict.tokens[: taken.kept]
        path = verdict.path[: taken.kept]
        choice.sampler.commit(tokens)
        choice.tokens.extend(tokens)
        committed.append(self._reserved(work, path[: taken.kept - 1]))
        self._account(work, verdict, len(tokens), path, found)
        now = time.perf_counter()
        choice.tally.first_token = choice.tally.first_token or now
        return StepOutput(
            request_id=choice.request.request_id,
            choice=choice.request.choice,
            tokens=tokens,
            text=taken.text,
            logprobs=_logprobs(choice, scores.logits, rows, verdict.rows[: taken.kept], tokens),
            margins=verdict.margins[: taken.kept],
            prompt_logprobs=prompt_logprobs,
            finish_reason=taken.finish_reason,
            stop_reason=taken.stop_reason,
            receipt=choice.receipt(now) if taken.finish_reason else None,
        )

    def _unreadable(self, work: Work) -> list[StepOutput]:
        """Scores that are not finite end a choice, unless its drafts may have brought them.

        Then nothing is taken, and the choice goes on without drafts. What the forward wrote is
        zeroed: a masked weight of 0 times NaN would still be NaN, in every later step.
        """
        choice = work.chunk.choice
        assert choice.lease is not None
        self.cache.rows.wipe(choice.lease.slot, choice.lease.committed)
        if not work.tree:
            return [_failed(choice, "the model gave scores that are not finite")]
        choice.undraftable = True
        return []

    def _reserved(self, work: Work, path: Sequence[int]) -> Committed:
        """Pages are taken for what was accepted, not for what was drafted.

        So a draft evicts no prefix, and the last token of a finished choice stays out: with and
        without speculation the cache holds the same.
        """
        committed = _committed(work, path)
        if path:
            self.cache.reserve(committed.lease, len(committed.rows))
        return committed

    def _scored_only(self, work: Work, committed: list[Committed]) -> StepOutput:
        """The end of a request that wanted no token, only the log-probs of its prompt."""
        choice = work.chunk.choice
        committed.append(_committed(work, ()))
        return StepOutput(
            request_id=choice.request.request_id,
            choice=choice.request.choice,
            tokens=(),
            text="",
            prompt_logprobs=_prompt_logprobs(choice),
            finish_reason="length",
            receipt=choice.receipt(time.perf_counter()),
        )

    def _account(
        self, work: Work, verdict: Verdict, kept: int, path: Sequence[int], found: Peaks
    ) -> None:
        choice, counts, tree = work.chunk.choice, self.counts, work.tree
        tally = choice.tally
        tally.steps += 1
        tally.narrow += verdict.narrow
        counts.output_tokens += kept
        counts.narrow_margins += verdict.narrow
        if tree.tokens:
            tally.drafted += len(tree)
            tally.accepted += len(path)
            counts.note_draft(tree, path)
        if self.drafting is not None and choice.drafts is not None:
            tokens = verdict.tokens[:kept]
            try:
                self.drafting.credit(choice.drafts, tree, path, tokens, guesses=found.tokens)
            except Exception:
                counts.note_draft_failure("credit")
                choice.undraftable = True


def _failed(choice: Choice, error: str) -> StepOutput:
    return StepOutput(
        request_id=choice.request.request_id,
        choice=choice.request.choice,
        tokens=(),
        text="",
        receipt=choice.receipt(time.perf_counter()),
        error=error,
    )


def _committed(work: Work, path: Sequence[int]) -> Committed:
    lease, chain = work.chunk.choice.lease, len(work.chunk.tokens)
    assert lease is not None
    rows = [*range(chain), *(chain + node for node in path)] if path else range(chain)
    return Committed(lease, rows, work.chunk.choice.tokens)


def _cut(verdict: Verdict, room: int) -> Verdict:
    """The verdict with at most ``room`` accepted nodes; every token it keeps stays the target's."""
    if len(verdict.path) <= room:
        return verdict
    kept = max(room, 0)
    return verdict._replace(
        path=verdict.path[:kept],
        tokens=verdict.tokens[: kept + 1],
        rows=verdict.rows[: kept + 1],
        margins=verdict.margins[: kept + 1],
    )


def _score_prompt(work: Work, scores: Scores, first: int) -> None:
    """Note the log-probs that rows ``first`` and on tell of the prompt."""
    scored, choice = work.scored(), work.chunk.choice
    if not scored:
        return
    assert choice.lease is not None
    start = choice.lease.committed + 1
    followed = choice.request.prompt[start + scored.start : start + scored.stop]
    rows = range(first, first + len(scored))
    choice.prompt_logprobs += _scored(
        scores.logits, rows, followed, choice.request.prompt_logprobs or 0
    )


def _prompt_logprobs(choice: Choice) -> tuple[TokenLogprob, ...]:
    """All of them with the first output, none later."""
    return tuple(choice.prompt_logprobs) if choice.output.count == 0 else ()


def _logprobs(
    choice: Choice, logits: Tensor, rows: range, decided: Sequence[int], tokens: Sequence[int]
) -> tuple[TokenLogprob, ...]:
    """Log-probs of the emitted tokens, from the target's raw logits of ``rows``."""
    width = choice.request.top_logprobs
    if width is None:
        return ()
    return _scored(logits, [rows[row] for row in decided], tokens, width)


def _scored(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], width: int
) -> tuple[TokenLogprob, ...]:
    """Log-prob of each of ``tokens`` in its row, with the ``width`` likeliest rivals."""
    scores = torch.log_softmax(logits[list(rows)], dim=-1)
    own = scores.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1).tolist()
    top = scores.topk(min(width, scores.shape[1]), dim=-1)
    rivals = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(
        TokenLogprob(token, logprob, tuple(zip(ids, values, strict=True)))
        for token, logprob, (ids, values) in zip(tokens, own, rivals, strict=True)
    )
