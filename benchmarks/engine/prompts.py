"""The traffic of every row: the demo's tasks as prompts, alone, mixed or behind long prefixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from demo.tasks import Split, Task, generate
from demo.tasks.generator import stream
from drafting.source import Reference
from router_model import Router

SEED = 11
LONGEST = 400  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request, in tokens, before any engine has seen it."""

    tokens: tuple[int, ...]
    family: str = ""
    longest: int = LONGEST
    references: tuple[Reference, ...] = ()
    ignore_eos: bool = False
    salt: str | None = None  # None: one of its own, so that no prefix is found in the cache
    predicted: int | None = None  # tokens of the answer, as the router expects them


class Prompts:
    """Demo prompts in the tokens of one model."""

    def __init__(self, folder: Path, *, router: Path | None = None) -> None:
        """``folder``: holds the tokenizer; ``router``: predicts lengths of answers."""
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._router = None if router is None else Router.load(router)

    def of(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """A chat in tokens, the answer's opening included."""
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def mixed(self, count: int, *, split: Split = "test", longest: int = LONGEST) -> list[Prompt]:
        """``count`` tasks as they come, every family equally likely."""
        return [self.prompt(task, longest) for task in generate(split, SEED, count)]

    def by_family(
        self, count: int, *, families: int | None = None, longest: int = LONGEST
    ) -> dict[str, list[Prompt]]:
        """``count`` tasks of every family, or of the first few."""
        found: dict[str, list[Prompt]] = {}
        for task in generate("test", SEED, 120 * count):
            prompts = found.setdefault(task.family, [])
            if len(prompts) < count:
                prompts.append(self.prompt(task, longest))
        return dict(islice(sorted(found.items()), families))

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say, special ones left out."""
        said: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return said

    def long(self, tokens: int, *, seed: int, longest: int) -> Prompt:
        """A chat of many turns, ``tokens`` or a little more in all, that ends with a question."""
        turns: list[dict[str, str]] = []
        for task in stream("test", seed):
            question = {"role": "user", "content": task.prompt}
            found = self.of([*turns, question])
            if len(found) >= tokens:
                return Prompt(found, "long", longest, predicted=self._expected([*turns, question]))
            turns += [question, {"role": "assistant", "content": task.answer}]
        raise AssertionError("tasks are endless")

    def prompt(self, task: Task, longest: int = LONGEST) -> Prompt:
        """A task asked in a chat of its own."""
        messages = [{"role": "user", "content": task.prompt}]
        return Prompt(self.of(messages), task.family, longest, predicted=self._expected(messages))

    def _expected(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        if self._router is None:
            return None
        return max(1, round(self._router.read(messages).expected_tokens))


def random_prompts(count: int, *, tokens: int, longest: int, vocabulary: int) -> list[Prompt]:
    """For random weights: tokens that mean nothing, answers of exactly ``longest`` tokens."""
    rng = Random(SEED)
    return [
        Prompt(
            tuple(rng.randrange(3, vocabulary) for _ in range(tokens)),
            longest=longest,
            ignore_eos=True,
        )
        for _ in range(count)
    ]


def with_prediction(
    prompt: Prompt, text: Sequence[int], *, right: float, vocabulary: int
) -> Prompt:
    """``prompt`` with ``text`` as the client's prediction, each token kept with ``right``."""
    rng = Random(f"{SEED}/{right}/{prompt.tokens[:8]}")
    guess = tuple(
        token if rng.random() < right else (token + rng.randrange(1, vocabulary)) % vocabulary
        for token in text
    )
    return replace(prompt, references=(Reference("prediction", guess),))
