"""What every choice brings to a forward: its chunk, and the draft tree hanging from its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from drafting.cost import Load
from drafting.tree import DraftTree
from kernels.tree_attention import Rows
from verifier.scheduler import Chunk

_NOTHING = range(0)
_SINGLE = (-1,)


class Work(NamedTuple):
    """What one choice brings to a forward."""

    chunk: Chunk
    tree: DraftTree

    @property
    def size(self) -> int:
        """Rows of the forward."""
        return len(self.chunk.tokens) + len(self.tree.tokens)

    def rows(self) -> Rows:
        """The chunk as a chain, the tree hanging from its end."""
        lease, chain, tree = self.chunk.choice.lease, len(self.chunk.tokens), self.tree.parents
        assert lease is not None
        if chain == 1 and not tree:
            return Rows(lease.slot, lease.committed, _SINGLE, 1)
        nodes = (chain + parent if parent >= 0 else chain - 1 for parent in tree)
        parents = [*range(-1, chain - 1), *nodes]
        return Rows(lease.slot, lease.committed, parents, len(parents))

    def tokens(self) -> Sequence[int]:
        """Of every row."""
        chain, tree = self.chunk.tokens, self.tree.tokens
        return [*chain, *tree] if tree else chain

    def scored(self) -> range:
        """Rows of the chunk that tell the log-prob of a prompt token somebody asked for."""
        choice = self.chunk.choice
        if choice.request.prompt_logprobs is None or choice.lease is None:
            return _NOTHING
        start, known = choice.lease.committed, len(choice.prompt_logprobs)
        end = min(start + len(self.chunk.tokens), len(choice.request.prompt) - 1)
        return range(max(start, known) - start, end - start)

    def deciding(self) -> range:
        """Rows that decide a token: the newest token's and every draft node's."""
        return range(len(self.chunk.tokens) - 1, self.size) if self.chunk.last else _NOTHING


def wanted_rows(works: Sequence[Work]) -> list[int]:
    """Rows of the forward whose logits matter: scored ones, then deciding ones, work by work."""
    wanted: list[int] = []
    start = 0
    for work in works:
        for rows in (work.scored(), work.deciding()):
            wanted += range(start + rows.start, start + rows.stop)
        start += work.size
    return wanted


def stretched_slots(works: Sequence[Work]) -> frozenset[int]:
    """Slots whose text is longer than the rotary switch."""
    leases = (work.chunk.choice.lease for work in works if work.chunk.choice.stretched)
    return frozenset(lease.slot for lease in leases if lease is not None)


def load_of(works: Sequence[Work]) -> Load:
    """What the step carries besides drafting: its forward, and the verification of its nodes."""
    rows = context = pairs = 0
    for work in works:
        lease, size = work.chunk.choice.lease, work.size
        assert lease is not None
        rows += size
        context += lease.committed
        pairs += size * lease.committed
    return Load(rows, len(works), float(context), float(pairs))
