"""Draws tasks of one split and grades answers to them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from demo.tasks.families import FAMILIES
from demo.tasks.task import Family, Split, Task, split_of


def stream(split: Split, seed: int, families: Sequence[Family] = FAMILIES) -> Iterator[Task]:
    """Endless tasks of a split, each family equally likely; equal seeds give equal tasks."""
    rng = Random(f"{split}/{seed}")
    while True:
        family = rng.choice(families)
        task = family.task(rng)
        while split_of(task.prompt) != split:
            task = family.task(rng)
        yield task


def generate(split: Split, seed: int, n: int) -> list[Task]:
    """`n` tasks of a split with `n` different prompts."""
    seen: set[str] = set()

    def is_new(task: Task) -> bool:
        known = task.prompt in seen
        seen.add(task.prompt)
        return not known

    return list(islice(filter(is_new, stream(split, seed)), n))


def grade(task: Task, text: str) -> bool:
    """Whether a text is the right answer: exact match, apart from surrounding blanks."""
    return text.strip() == task.answer.strip()
