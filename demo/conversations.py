"""Training batches: chats made of tasks, of similar length, with the answers marked."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from demo.recipe import CONTEXT
from demo.tasks import FAMILIES, Family, Task
from demo.tasks.generator import stream
from demo.tokenizer import ASSISTANT, BOS, END, SYSTEM, SYSTEM_PROMPTS, USER

POOL = 256
SYSTEM_SHARE, SEVERAL_TURNS, MANY_TURNS = 0.2, 0.12, 0.004
LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
"""Few batch shapes, since the first batch of each shape is slow."""


class Batch(NamedTuple):
    """`tokens` (B, L); the rest describes the answer tokens, flattened."""

    tokens: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor


class Chat(NamedTuple):
    """Token ids of a conversation; `weights` says how much each counts as a target."""

    ids: list[int]
    weights: list[float]


def batches(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    tokens: int,
    families: Sequence[Family] = FAMILIES,
) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens."""
    rng = Random(f"conversations/{seed}")
    tasks = stream("ladder-train", seed, families)
    waiting: dict[int, list[Chat]] = {length: [] for length in LENGTHS}
    while True:
        for chat in _chats(tokenizer, tasks, rng):
            length = next(length for length in LENGTHS if len(chat.ids) <= length)
            waiting[length].append(chat)
            if len(waiting[length]) == max(1, tokens // length):
                yield _batch(waiting[length], length)
                waiting[length] = []


def _turns(rng: Random) -> int:
    kind = rng.random()
    if kind < MANY_TURNS:
        return rng.randint(6, 18)
    return rng.randint(2, 4) if kind < MANY_TURNS + SEVERAL_TURNS else 1


def _chats(tokenizer: PreTrainedTokenizerFast, tasks: Iterator[Task], rng: Random) -> list[Chat]:
    plans = [[next(tasks) for _ in range(_turns(rng))] for _ in range(POOL)]
    texts = [text for plan in plans for task in plan for text in (task.prompt, task.answer)]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    systems = tokenizer(list(SYSTEM_PROMPTS), add_special_tokens=False)["input_ids"]
    bos, end, system, user, assistant = tokenizer.convert_tokens_to_ids(
        [BOS, END, SYSTEM, USER, ASSISTANT]
    )
    chats = []
    for plan in plans:
        ids = [bos]
        if rng.random() < SYSTEM_SHARE:
            ids += [system, *rng.choice(systems), end]
        weights = [0.0] * len(ids)
        for _ in plan:
            question = [user, *next(encoded), end, assistant]
            answer = [*next(encoded), end]
            ids += question + answer
            weights += [0.0] * len(question) + [len(answer) ** -0.5] * len(answer)
        chats.append(Chat(ids[:CONTEXT], weights[:CONTEXT]))
    return chats


def _batch(chats: list[Chat], length: int) -> Batch:
    tokens = torch.zeros(len(chats), length, dtype=torch.long)
    weights = torch.zeros(len(chats), length)
    for row, chat in enumerate(chats):
        tokens[row, : len(chat.ids)] = torch.tensor(chat.ids)
        weights[row, : len(chat.ids)] = torch.tensor(chat.weights)
    targets = weights.flatten().nonzero().squeeze(1)
    return Batch(tokens, targets - 1, tokens.flatten()[targets], weights.flatten()[targets])
