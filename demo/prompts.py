"""The demo's tasks as prompts with expected answers, for `spillway router collect`."""

from collections.abc import Iterator, Mapping

from demo.tasks import Split, generate

SEED = 11


def prompts(split: Split, count: int) -> Iterator[Mapping[str, str]]:
    """`count` different prompts of a split; equal counts give equal prompts."""
    for task in generate(split, SEED, count):
        yield {
            "prompt": task.prompt,
            "expected": task.answer,
            "family": task.family,
            "split": split,
        }
