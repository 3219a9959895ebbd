"""One choice of one request on its way through the engine."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from drafting.mix import RequestDrafts
from drafting.tree import DraftTree
from verifier.acceptance import ChoiceSampler
from verifier.block_fetch import Fetch
from verifier.cache import Lease
from verifier.output import Output
from verifier.request import DecodeReceipt, GenerationRequest, SourceCount, TokenLogprob

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # request id, choice


@dataclass(slots=True)
class Tally:
    """What decoding has cost so far. Times are seconds of a monotonic clock."""

    submitted: float
    admitted: float | None = None
    first_token: float | None = None
    cached_prompt_tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    narrow: int = 0
    draft_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Choice:
    """State that outlives preemption, and the lease that does not."""

    request: GenerationRequest
    arrival: int
    root: bytes
    tokens: list[int]  # prompt and output
    sampler: ChoiceSampler
    output: Output
    drafts: RequestDrafts | None
    tally: Tally
    lease: Lease | None = None
    fetch: Fetch | None = None  # stored pages on their way
    page_names: list[bytes] | None = None  # of its full pages, while nothing was appended
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of prompt[1:], so far
    rotary_switch: int | None = None  # of the model
    undraftable: bool = False  # its drafts made scores that could not be read

    @property
    def key(self) -> Key:
        """What the caller knows it by."""
        return self.request.request_id, self.request.choice

    @property
    def stretched(self) -> bool:
        """Whether its text is longer than the switch, so that all its positions turn otherwise."""
        return self.rotary_switch is not None and len(self.tokens) > self.rotary_switch

    @property
    def page_root(self) -> bytes:
        """Where the names of its pages begin; keys on both sides of the switch are not the same."""
        return hashlib.sha256(self.root + b"stretched").digest() if self.stretched else self.root

    @property
    def depth_left(self) -> int:
        """Drafted tokens that lie on the same side of the switch as its text."""
        if self.rotary_switch is None or self.stretched:
            return len(self.tokens) + self.output.remaining
        return self.rotary_switch - len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not context yet; 1 while decoding."""
        return len(self.tokens) - (self.lease.committed if self.lease else 0)

    @property
    def decoding(self) -> bool:
        """Whether only the newest token is pending."""
        return self.lease is not None and self.pending == 1

    def receipt(self, now: float) -> DecodeReceipt:
        """The account at time ``now``."""
        tally, drafts = self.tally, self.drafts
        admitted = now if tally.admitted is None else tally.admitted
        first = now if tally.first_token is None else tally.first_token
        return DecodeReceipt(
            prompt_tokens=len(self.request.prompt),
            cached_prompt_tokens=tally.cached_prompt_tokens,
            output_tokens=self.output.count,
            steps=tally.steps,
            drafted=tally.drafted,
            accepted=tally.accepted,
            by_source=source_counts(drafts),
            accepted_prediction_tokens=drafts.accepted_prediction_tokens if drafts else 0,
            rejected_prediction_tokens=drafts.rejected_prediction_tokens if drafts else 0,
            queue_ms=(admitted - tally.submitted) * 1e3,
            prefill_ms=max(0.0, first - admitted) * 1e3,
            decode_ms=max(0.0, now - first) * 1e3,
            draft_ms=tally.draft_seconds * 1e3,
            narrow_margins=tally.narrow,
            seed=self.request.sampling.seed,
        )


def source_counts(drafts: RequestDrafts | None) -> dict[str, SourceCount]:
    """What each source proposed and how much of it was accepted."""
    if drafts is None:
        return {}
    return {
        name: SourceCount(proposed=credit.proposed, accepted=credit.accepted)
        for name, credit in drafts.credits.items()
    }


@dataclass(slots=True)
class Counts:
    """Totals of one model since start."""

    steps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_hit_tokens: int = 0
    block_hit_tokens: int = 0  # of them from the block store
    preemptions: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    narrow_margins: int = 0
    batch_size: int = 0
    step_seconds: float = 0.0
    forward_seconds: float = 0.0
    by_position: Counter[int] = field(default_factory=Counter)
    proposed_by_source: Counter[str] = field(default_factory=Counter)
    accepted_by_source: Counter[str] = field(default_factory=Counter)
    draft_failures: Counter[str] = field(default_factory=Counter)  # by what was asked of drafting

    def note_draft_failure(self, asked: str) -> None:
        """Book that drafting could not do what it was ``asked``; the first time, say why.

        A draft is a guess: requests go on without it.
        """
        self.draft_failures[asked] += 1
        if self.draft_failures[asked] == 1:
            logger.exception("drafting failed (%s); later failures are only counted", asked)

    def note_draft(self, tree: DraftTree, path: Sequence[int]) -> None:
        """Book one verified draft and its accepted nodes."""
        self.drafts += 1
        self.drafted += len(tree)
        self.accepted += len(path)
        for names, nodes in Counter(tree.sources).items():
            for name in names:
                self.proposed_by_source[name] += nodes
        for place, node in enumerate(path):
            self.by_position[place] += 1
            for name in tree.sources[node]:
                self.accepted_by_source[name] += 1
