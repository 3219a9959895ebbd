"""What a task, a family of tasks and a split are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal, NamedTuple

Split = Literal["ladder-train", "router-train", "thresholds", "test"]

SPLITS: Mapping[Split, range] = {
    "ladder-train": range(85),
    "router-train": range(85, 90),
    "thresholds": range(90, 95),
    "test": range(95, 100),
}
"""Which hundredths of all prompts belong to which split."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question with exactly one right answer.

    `size` grows with difficulty and compares only within a family; `long` marks
    families whose answers run to a hundred tokens and more.
    """

    family: str
    prompt: str
    answer: str
    long: bool
    size: int
    phrasing: int


class Instance(NamedTuple):
    """One drawn problem, before it is put into words."""

    fields: Mapping[str, str]
    answer: str
    size: int


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of task: several ways to ask it, and how to draw one."""

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], Instance]
    long: bool = False

    def task(self, rng: Random) -> Task:
        """Draw one problem and word it at random."""
        fields, answer, size = self.draw(rng)
        phrasing = rng.randrange(len(self.phrasings))
        prompt = self.phrasings[phrasing].format(**fields)
        return Task(self.name, prompt, answer, self.long, size, phrasing)


def split_of(prompt: str) -> Split:
    """The one split a prompt belongs to, for good: a function of its text alone."""
    hundredth = int.from_bytes(sha256(prompt.encode()).digest()[:8], "big") % 100
    return next(split for split, owned in SPLITS.items() if hundredth in owned)
