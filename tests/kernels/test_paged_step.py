"""Whole steps as an engine takes them: expand, attend, walk, commit. Drafts change no token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.paged_attention import paged_attention
from kernels.paged_commit import AcceptedRows, commit_to_pages
from kernels.paged_memory import PagedContext, TreeScratch
from kernels.paged_plan import plan_paged_attention
from kernels.tree_attention import Rows
from kernels.tree_expansion import expand_trees
from kernels.tree_walk import DraftRows, Drawing, Walk, walk_trees

LAYERS, HEADS, KEY_HEADS, SIZE, VOCABULARY, PAGE = 2, 4, 2, 64, 30, 16
HIDDEN, LONGEST = HEADS * SIZE, 6
PROMPTS = [[3, 1, 4, 1, 5], list(range(20))]
KEYS = [[11, 5], [2**32 - 1, 7]]


class Toy:
    """A transformer of attention alone over paged memory; one step serves both requests."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(4)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        self.device = device
        self.embedding, self.places = normal(VOCABULARY, HIDDEN), normal(64, HIDDEN) * 0.3
        self.head = normal(HIDDEN, VOCABULARY) / 8
        self.queries = normal(LAYERS, HIDDEN, HIDDEN) / HIDDEN**0.5
        self.keys_values = normal(LAYERS, HIDDEN, 2 * KEY_HEADS * SIZE) / HIDDEN**0.5
        self.pages = torch.full((LAYERS, 8, PAGE, 2 * KEY_HEADS, SIZE), torch.nan, device=device)
        self.tables = self.ints([[6, 2, 4, 0], [1, 7, 3, 5]])
        self.contexts = self.ints([0, 0])

    def ints(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def step(self, trees: list[Fresh]) -> Walk:
        """Compute, verify and commit; contexts grow."""
        parents = self.ints([parent for tree in trees for parent in tree.parents])
        starts = self.ints([0, *np.cumsum([len(tree.parents) for tree in trees]).tolist()])
        shape = expand_trees(parents, starts, self.contexts, words=1)
        requests = [
            Rows(slot, int(self.contexts[slot]), tree.parents, len(tree.parents))
            for slot, tree in enumerate(trees)
        ]
        x = self.embedding[self.ints([t for tree in trees for t in tree.tokens]).long()]
        x = x + self.places[shape.positions]
        scratch = torch.full((LAYERS, len(x), 2 * KEY_HEADS, SIZE), torch.nan, device=self.device)
        plan = plan_paged_attention(
            requests, groups=HEADS // KEY_HEADS, head_size=SIZE, dtype=x.dtype, device=self.device
        )
        for layer, own in enumerate(scratch):
            own.copy_((x @ self.keys_values[layer]).view(len(x), -1, SIZE))
            pages = self.pages[layer]
            mixed = paged_attention(
                (x @ self.queries[layer]).view(len(x), HEADS, SIZE),
                PagedContext(pages[:, :, :KEY_HEADS], pages[:, :, KEY_HEADS:], self.tables),
                TreeScratch(own[:, :KEY_HEADS], own[:, KEY_HEADS:], shape.words, shape.depths),
                plan, debug=True,
            )  # fmt: skip
            x = x + mixed.flatten(1)
        wanted = self.ints([
            int(start) + row for start, tree in zip(starts, trees, strict=False)
            for row in range(tree.lead, len(tree.parents))
        ])  # fmt: skip
        walk = self.verified(x[wanted] @ self.head, trees, shape.positions[wanted])
        leads = self.ints([tree.lead for tree in trees])
        accepted = AcceptedRows(starts[:-1].contiguous(), leads, walk.rows, walk.counts)
        commit_to_pages(
            self.pages, scratch, self.tables, self.contexts, accepted, longest_lead=32, debug=True
        )
        self.contexts += leads + walk.counts
        return walk

    def verified(self, logits: Tensor, trees: list[Fresh], positions: Tensor) -> Walk:
        heads = [tree.behind_lead() for tree in trees]
        rows = DraftRows(
            self.ints([0, *np.cumsum([len(parents) for parents, _ in heads]).tolist()]),
            self.ints([parent for parents, _ in heads for parent in parents]),
            self.ints([token for _, tokens in heads for token in tokens]),
            positions,
        )
        drawing = Drawing(
            torch.tensor(KEYS, device=self.device),
            torch.ones(2, dtype=torch.float64, device=self.device),
        )
        return walk_trees(logits, rows, drawing, widest=64, longest=LONGEST, debug=True)


class Fresh(NamedTuple):
    """Rows of one request in one step: ``lead`` tokens that are sure, the last token, a tree."""

    lead: int
    tokens: list[int]
    parents: list[int]

    def behind_lead(self) -> tuple[list[int], list[int]]:
        parents = [-1, *(parent - self.lead for parent in self.parents[self.lead + 1 :])]
        return parents, self.tokens[self.lead :]


def drafted(sure: list[int], truth: list[int], random: np.random.Generator) -> Fresh:
    """Part of what will come, wrong siblings beside it, wrong children below these."""
    tokens, parents = list(sure), list(range(-1, len(sure) - 1))
    path = len(sure) - 1
    for token in truth:
        wrong = int((token + 1 + random.integers(0, VOCABULARY - 1)) % VOCABULARY)
        tokens += [wrong, token, token]
        parents += [path, path, len(tokens) - 3]
        path = len(tokens) - 2
    return Fresh(len(sure) - 1, tokens, parents)


def generate(device: torch.device, truth: list[list[int]] | None, length: int) -> list[list[int]]:
    """Texts of both requests, with drafts from ``truth`` where it is given."""
    random = np.random.default_rng(2)
    model, texts = Toy(device), [list[int](), list[int]()]
    steps = 0
    while min(map(len, texts)) < length:
        trees = []
        for slot, text in enumerate(texts):
            sure = text[-1:] if text else PROMPTS[slot]
            hint = truth[slot][len(text) :][: random.integers(0, 4)] if truth else []
            trees.append(drafted(sure, hint, random))
        walk = model.step(trees)
        for slot, text in enumerate(texts):
            text += walk.tokens[slot, : walk.counts[slot]].tolist()
        steps += 1
    assert truth is None or steps < length
    return texts


def test_drafts_change_no_token_of_two_requests_over_shared_pages(place: torch.device) -> None:
    plain = generate(place, None, 9)
    assert len(set(plain[0])) > 4
    assert plain[0] != plain[1]
    drafts = generate(place, plain, 7)
    for ours, theirs in zip(drafts, plain, strict=True):
        assert ours[:7] == theirs[:7]
