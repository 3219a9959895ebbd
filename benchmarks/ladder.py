"""What the shipped ladder does behind the gateway: quality, traffic, equality, acceptance.

    python -m benchmarks.ladder [--config demo/spillway.toml] [--prompts 1000] [--equal 200]

Writes benchmarks/results/ladder.json.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.engine.prompts import Prompts
from benchmarks.machine import machine
from benchmarks.paired import estimate, ratio_of_sums
from benchmarks.served import served
from demo.tasks import Task, generate, grade

RESULTS = Path(__file__).parent / "results/ladder.json"
AT_ONCE = 12
LONGEST = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and what the gateway says about it."""

    text: str
    tier: str
    receipt: Mapping[str, Any]


async def ask(client: httpx.AsyncClient, task: Task, model: str, **extras: Any) -> Answer:
    """Greedy, uncached."""
    body = {
        "model": model,
        "temperature": 0,
        "max_tokens": LONGEST,
        "messages": [{"role": "user", "content": task.prompt}],
        "spillway": {"receipt": True} | extras,
    }
    response = await client.post(
        "/v1/chat/completions", json=body, headers={"cache-control": "no-store"}
    )
    response.raise_for_status()
    answer = response.json()
    text = answer["choices"][0]["message"]["content"]
    return Answer(text, response.headers["x-spillway-tier"], answer["spillway"])


async def ask_all(
    url: str, tasks: Sequence[Task], model: str, *, at_once: int = AT_ONCE, **extras: Any
) -> list[Answer]:
    """Every task, ``at_once`` at a time, in order."""
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:

        async def one(task: Task) -> Answer:
            async with gate:
                return await ask(client, task, model, **extras)

        return await asyncio.gather(*map(one, tasks))


def share_right(tasks: Sequence[Task], answers: Sequence[Answer]) -> float:
    """Exact match."""
    return sum(grade(t, a.text) for t, a in zip(tasks, answers, strict=True)) / len(tasks)


def cascade_figures(
    tasks: Sequence[Task], auto: Sequence[Answer], large: Sequence[Answer]
) -> dict[str, Any]:
    """Accuracy of the cascade beside the largest tier's own, and who answered."""
    own = share_right(tasks, large)
    return {
        "prompts": len(tasks),
        "accuracy_auto": share_right(tasks, auto),
        "accuracy_largest": own,
        "relative_accuracy": share_right(tasks, auto) / own,
        "share_not_largest": sum(a.tier != b.tier for a, b in zip(auto, large, strict=True))
        / len(tasks),
        "answered_by": {
            tier: n / len(tasks) for tier, n in sorted(Counter(a.tier for a in auto).items())
        },
        "salvaged_tokens": sum(a.receipt.get("salvaged_tokens", 0) for a in auto),
        "rejected_tokens": sum(a.receipt.get("rejected_tokens", 0) for a in auto),
    }


async def long_figures(url: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """Long answers one at a time, each with speculation and without: steps and speed."""
    seconds: dict[str, list[float]] = {"auto": [], "off": []}
    drafted: list[Answer] = []
    for place, task in enumerate(tasks):
        for mode in sorted(seconds, reverse=place % 2 == 1):  # they take turns at being first
            began = time.perf_counter()
            (answer,) = await ask_all(url, [task], "river", speculation={"mode": mode})
            seconds[mode].append(time.perf_counter() - began)
            drafted += [answer] if mode == "auto" else []
    ratio = estimate(ratio_of_sums(seconds["off"], seconds["auto"]))
    return acceptance_figures(tasks, drafted) | {
        "prompts": len(tasks),
        "speed_up": ratio.value,
        "speed_up_interval": [ratio.low, ratio.high],
    }


def acceptance_figures(tasks: Sequence[Task], answers: Sequence[Answer]) -> dict[str, Any]:
    """Accepted draft tokens per verification step, by family."""
    steps: dict[str, int] = defaultdict(int)
    accepted: dict[str, int] = defaultdict(int)
    for task, answer in zip(tasks, answers, strict=True):
        steps[task.family] += answer.receipt["steps"]
        accepted[task.family] += answer.receipt["accepted"]
    return {
        "accepted_per_step": sum(accepted.values()) / sum(steps.values()),
        "by_family": {name: accepted[name] / steps[name] for name in sorted(steps)},
    }


async def equality_figures(url: str, tasks: Sequence[Task], model: Path) -> dict[str, Any]:
    """Greedy text with and without speculation, and transformers' own."""
    drafted = await ask_all(url, tasks, "river")
    plain = await ask_all(url, tasks, "river", speculation={"mode": "off"})
    reference = await asyncio.to_thread(generated, model, tasks)
    return {
        "prompts": len(tasks),
        "equal_without_speculation": sum(
            a.text == b.text for a, b in zip(drafted, plain, strict=True)
        ),
        "equal_to_generate": sum(a.text == b for a, b in zip(drafted, reference, strict=True)),
        "accepted_with": sum(a.receipt["accepted"] for a in drafted),
        "accepted_without": sum(a.receipt["accepted"] for a in plain),
    }


def generated(folder: Path, tasks: Sequence[Task]) -> list[str]:
    """transformers `generate`, float32, greedy, one prompt at a time."""
    from benchmarks.engine.theirs import Transformers

    prompts = Prompts(folder)
    said = Transformers(folder).plain([prompts.prompt(task, LONGEST) for task in tasks])
    return [prompts.text(answer) for answer in said.answers]


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure."""
    tasks = generate("test", options.seed, options.prompts)
    long_tasks = [task for task in tasks if task.long][: options.long]
    long_answers = await long_figures(url, long_tasks)
    large = await ask_all(url, tasks, "river")
    auto = await ask_all(url, tasks, "auto")
    return {
        "machine": machine(),
        "cascade": cascade_figures(tasks, auto, large),
        "long_answers": long_answers,
        "equality": await equality_figures(url, tasks[: options.equal], options.river),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("demo/spillway.toml"))
    parser.add_argument("--river", type=Path, default=Path("demo/ladder/river"))
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--equal", type=int, default=200)
    parser.add_argument("--long", type=int, default=60)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with served(options.config) as url:
        figures = asyncio.run(measure(url, options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
