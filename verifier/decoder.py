"""Decodes every request of one model: chunk, draft, one forward, verify, commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drafting.cost import Load, StepCost
from drafting.mix import Ask, Drafting
from drafting.tree import DraftTree
from kernels.tree_attention import Rows
from verifier.acceptance import Verdict
from verifier.cache import Committed, KeyValueCache
from verifier.choice import Choice, Counts
from verifier.loading import LoadedModel
from verifier.request import StepOutput, TokenLogprob
from verifier.rows import ragged
from verifier.scheduler import Chunk, Scheduler

EMPTY = DraftTree()


class Work(NamedTuple):
    """What one choice brings to a forward."""

    chunk: Chunk
    tree: DraftTree

    def rows(self) -> Rows:
        """The chunk as a chain, the tree hanging from its end."""
        lease, chain = self.chunk.choice.lease, len(self.chunk.tokens)
        assert lease is not None
        nodes = [chain + parent for parent in self.tree.parents if parent >= 0]
        if len(nodes) < len(self.tree):
            nodes = [chain + parent if parent >= 0 else chain - 1 for parent in self.tree.parents]
        return Rows(
            lease.slot, lease.committed, [*range(-1, chain - 1), *nodes], chain + len(nodes)
        )

    def scored(self) -> range:
        """Rows of the chunk that tell the log-prob of a prompt token somebody asked for."""
        choice = self.chunk.choice
        if choice.request.prompt_logprobs is None or choice.lease is None:
            return range(0)
        start, known = choice.lease.committed, len(choice.prompt_logprobs)
        end = min(start + len(self.chunk.tokens), len(choice.request.prompt) - 1)
        return range(max(start, known) - start, end - start)


class Scores(NamedTuple):
    """Logits of the rows somebody verifies: [R, V], and their argmax [R]."""

    logits: Tensor
    values: NDArray[np.float32]
    greedy: NDArray[np.int64]
    usable: NDArray[np.bool_]  # [R] whether a row is free of NaN


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

    def step(self) -> list[StepOutput]:
        """One forward for everybody, and what came of it."""
        started = time.perf_counter()
        chunks = self.scheduler.chunks()
        if not chunks:
            return []
        works = self._drafted(chunks)
        works.sort(key=lambda work: work.chunk.choice.lease.slot)  # type: ignore[union-attr]
        load, drafted = _load(works), time.perf_counter()
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
        trees = self.drafting.propose([self._ask(chunk) for chunk in asking], other_tokens=other)
        share = (time.perf_counter() - started) / len(asking)
        found = {id(chunk): tree for chunk, tree in zip(asking, trees, strict=True)}
        for chunk in asking:
            chunk.choice.tally.draft_seconds += share
        return [Work(chunk, found.get(id(chunk), EMPTY)) for chunk in chunks]

    def _may_draft(self, chunk: Chunk) -> bool:
        choice = chunk.choice
        return chunk.last and choice.drafts is not None and choice.output.remaining > 1

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
        tokens = [[*work.chunk.tokens, *work.tree.tokens] for work in works]
        batch = ragged(rows, tokens, cache.capacity)._replace(stretched=_stretched(works))
        started = time.perf_counter()
        logits = self.model.network.forward(batch, cache, _wanted(works)).cpu()
        best = logits.max(dim=-1) if logits.shape[0] else None
        seconds = time.perf_counter() - started
        self.counts.forward_seconds += seconds
        if best is None:
            nothing = np.zeros(0)
            return Scores(logits, logits.numpy(), nothing.astype(np.int64), nothing.astype(bool))
        usable = torch.isfinite(best.values).numpy()
        return Scores(logits, logits.numpy(), best.indices.numpy(), usable)

    def _settle(self, works: Sequence[Work], scores: Scores) -> list[StepOutput]:
        """Verify every choice, then commit all of them in one copy, then free the finished."""
        outputs: list[StepOutput] = []
        committed: list[Committed] = []
        first = 0
        for work in works:
            first = _score_prompt(work, scores, first)
            if not work.chunk.last:
                committed.append(_committed(work, ()))
                continue
            rows = slice(first, first + 1 + len(work.tree))
            first = rows.stop
            outputs.append(self._verified(work, scores, rows, committed))
        self.cache.commit(committed)
        for work, output in zip([work for work in works if work.chunk.last], outputs, strict=True):
            if output.receipt is not None:
                self.scheduler.finish(work.chunk.choice)
        return outputs

    def _verified(
        self, work: Work, scores: Scores, rows: slice, committed: list[Committed]
    ) -> StepOutput:
        """Take what the target accepts of one tree, up to the earliest stop."""
        choice = work.chunk.choice
        if not scores.usable[rows].all():
            assert choice.lease is not None
            self.cache.rows.wipe(choice.lease.slot)
            return _failed(choice, "the model gave scores that are not finite")
        if choice.output.remaining <= 0:
            return self._scored_only(work, committed)
        verdict = choice.sampler.verify(work.tree, scores.values[rows], greedy=scores.greedy[rows])
        verdict = _cut(verdict, self._room(work.chunk))
        prompt_logprobs = _prompt_logprobs(choice)
        taken = choice.output.take(verdict.tokens)
        tokens = verdict.tokens[: taken.kept]
        path = verdict.path[: taken.kept]
        choice.sampler.commit(tokens)
        choice.tokens.extend(tokens)
        committed.append(self._reserved(work, path[: taken.kept - 1]))
        self._account(work, verdict, len(tokens), path)
        now = time.perf_counter()
        choice.tally.first_token = choice.tally.first_token or now
        return StepOutput(
            request_id=choice.request.request_id,
            choice=choice.request.choice,
            tokens=tokens,
            text=taken.text,
            logprobs=_logprobs(choice, scores.logits[rows], verdict.rows[: taken.kept], tokens),
            margins=verdict.margins[: taken.kept],
            prompt_logprobs=prompt_logprobs,
            finish_reason=taken.finish_reason,
            stop_reason=taken.stop_reason,
            receipt=choice.receipt(now) if taken.finish_reason else None,
        )

    def _reserved(self, work: Work, path: Sequence[int]) -> Committed:
        """Pages are taken for what was accepted, not for what was drafted.

        So a draft evicts no prefix, and the last token of a finished choice stays out: with and
        without speculation the cache holds the same.
        """
        committed = _committed(work, path)
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

    def _account(self, work: Work, verdict: Verdict, kept: int, path: Sequence[int]) -> None:
        choice, counts, tree = work.chunk.choice, self.counts, work.tree
        tally = choice.tally
        tally.steps += 1
        tally.drafted += len(tree)
        tally.accepted += len(path)
        tally.narrow += verdict.narrow
        counts.output_tokens += kept
        counts.narrow_margins += verdict.narrow
        counts.drafts += 1 if tree.tokens else 0
        counts.drafted += len(tree)
        counts.accepted += len(path)
        counts.by_position.update(range(len(path)))
        for names in tree.sources:
            counts.proposed_by_source.update(names)
        for node in path:
            counts.accepted_by_source.update(tree.sources[node])
        if self.drafting is not None and choice.drafts is not None:
            self.drafting.credit(choice.drafts, tree, path, verdict.tokens[:kept])


def _stretched(works: Sequence[Work]) -> frozenset[int]:
    leases = (work.chunk.choice.lease for work in works if work.chunk.choice.stretched)
    return frozenset(lease.slot for lease in leases if lease is not None)


def _load(works: Sequence[Work]) -> Load:
    """What the step carries besides drafting: its forward, and the verification of its nodes."""
    rows = [len(work.chunk.tokens) + len(work.tree) for work in works]
    contexts = [work.chunk.choice.lease.committed for work in works if work.chunk.choice.lease]
    pairs = sum(count * context for count, context in zip(rows, contexts, strict=True))
    return Load(sum(rows), len(works), float(sum(contexts)), float(pairs))


def _failed(choice: Choice, error: str) -> StepOutput:
    return StepOutput(
        request_id=choice.request.request_id,
        choice=choice.request.choice,
        tokens=(),
        text="",
        receipt=choice.receipt(time.perf_counter()),
        error=error,
    )


def _wanted(works: Sequence[Work]) -> Tensor:
    """Rows whose logits matter: scored prompt rows, the newest token's, every draft node's."""
    wanted: list[int] = []
    start = 0
    for work in works:
        end = start + len(work.chunk.tokens) + len(work.tree)
        wanted += (start + row for row in work.scored())
        if work.chunk.last:
            wanted += range(start + len(work.chunk.tokens) - 1, end)
        start = end
    return torch.tensor(wanted, dtype=torch.int64)


def _committed(work: Work, path: Sequence[int]) -> Committed:
    lease, chain = work.chunk.choice.lease, len(work.chunk.tokens)
    assert lease is not None
    rows = [*range(chain), *(chain + node for node in path)]
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


def _score_prompt(work: Work, scores: Scores, first: int) -> int:
    """Note the log-probs that rows ``first`` and on tell of the prompt; the first row after."""
    scored, choice = work.scored(), work.chunk.choice
    if not scored:
        return first
    assert choice.lease is not None
    start = choice.lease.committed + 1
    followed = choice.request.prompt[start + scored.start : start + scored.stop]
    rows = range(first, first + len(scored))
    choice.prompt_logprobs += _scored(
        scores.logits, rows, followed, choice.request.prompt_logprobs or 0
    )
    return rows.stop


def _prompt_logprobs(choice: Choice) -> tuple[TokenLogprob, ...]:
    """All of them with the first output, none later."""
    return tuple(choice.prompt_logprobs) if choice.output.count == 0 else ()


def _logprobs(
    choice: Choice, logits: Tensor, rows: Sequence[int], tokens: Sequence[int]
) -> tuple[TokenLogprob, ...]:
    """Log-probs of the emitted tokens, from the target's raw logits."""
    width = choice.request.top_logprobs
    return () if width is None else _scored(logits, rows, tokens, width)


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
