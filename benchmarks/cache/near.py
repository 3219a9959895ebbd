"""Near hits on the shipped ladder: paraphrases, opposites, and what a useless neighbour costs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx

from benchmarks.served import served
from demo.tasks import generate

PAIRS = 24
TIER = "river"
_ROOT = Path(__file__).parents[2]
_SAME = {
    "capitals": ("SHOUT this: {}", "Put this line in upper case: {}"),
    "copy": ("Say the following back to me: {}", "Repeat these words exactly: {}"),
    "spell-backwards": ("Spell backwards: {}", "How do you spell this backwards? {}"),
}
"""Two ways to ask for one answer."""
_OPPOSITE = (
    ("SHOUT this: {}", "Repeat these words exactly: {}"),
    ("Repeat these words exactly: {}", "Spell backwards: {}"),
    ('Count the word "{0}" in this line: {1}', 'Count the word "{2}" in this line: {1}'),
)
"""Nearly the same words, another answer."""


class Pair(NamedTuple):
    """A request that is asked first, and one like it."""

    first: str
    second: str


def paraphrases() -> list[Pair]:
    """Requests that mean the same."""
    words = _lines()
    ways = list(_SAME.values())
    return [
        Pair(*(way.format(line) for way in ways[at % len(ways)]))
        for at, line in enumerate(words[:PAIRS])
    ]


def opposites() -> list[Pair]:
    """Requests that look the same and are not."""
    found = []
    for at, line in enumerate(_lines()[PAIRS : 2 * PAIRS]):
        first, second = _OPPOSITE[at % len(_OPPOSITE)]
        if "{0}" in first:
            one, other = (line.split() * 2)[:2]
            found.append(Pair(first.format(one, line), second.format(one, line, other)))
        else:
            found.append(Pair(first.format(line), second.format(line)))
    return found


def _lines() -> list[str]:
    """Lines of words as the ladder's tasks have them."""
    dice = random.Random(4)
    tasks = [task for task in generate("test", 9, 2000) if task.family == "copy"]
    lines = [task.answer for task in tasks if 5 <= len(task.answer.split()) <= 12]
    dice.shuffle(lines)
    return lines


def measure(folder: Path, embedder: Path) -> dict[str, object]:
    """Draft tokens accepted, answers changed, and time against the same request without."""
    with served(_config(folder, embedder)) as url, httpx.Client(base_url=url, timeout=120) as http:
        return {
            "paraphrases": _run(http, paraphrases()),
            "opposites": _run(http, opposites()),
        }


def _run(http: httpx.Client, pairs: Sequence[Pair]) -> dict[str, object]:
    wrong = near = drafted = accepted = tokens = 0
    ratios = []
    for number, pair in enumerate(pairs):
        _ask(http, pair.first)
        asked = [True, False] if number % 2 else [False, True]
        answers = {learns: _ask(http, pair.second, learns=learns) for learns in asked}
        text, receipt = answers[True]
        plain, without = answers[False]
        wrong += text != plain
        attempt = receipt["tiers"][-1]
        source = attempt["by_source"].get("near_hit", {})
        near += "near_hits" in attempt["handed_up"]
        drafted += source.get("proposed", 0)
        accepted += source.get("accepted", 0)
        tokens += attempt["completion_tokens"]
        ratios.append(attempt["ms"] / without["tiers"][-1]["ms"])
    return {
        "pairs": len(pairs), "with_a_neighbour": near, "wrong_answers": wrong,
        "completion_tokens": tokens, "near_tokens_drafted": drafted,
        "near_tokens_accepted": accepted, "median_time_ratio": round(median(ratios), 3),
    }  # fmt: skip


def _ask(http: httpx.Client, said: str, *, learns: bool = True) -> tuple[str, Mapping[str, Any]]:
    """Greedy; without learning it neither looks for neighbours nor becomes one."""
    body = {
        "model": TIER, "temperature": 0, "max_tokens": 200,
        "messages": [{"role": "user", "content": said}], "spillway": {"receipt": True},
    }  # fmt: skip
    headers = {} if learns else {"cache-control": "no-store"}
    response = http.post("/v1/chat/completions", json=body, headers=headers)
    answer = response.raise_for_status().json()
    return answer["choices"][0]["message"]["content"], answer["spillway"]


def _config(folder: Path, embedder: Path) -> Path:
    """The shipped configuration with an embedder, and patience for it."""
    text = (_ROOT / "demo/spillway.toml").read_text()
    text = re.sub(r'(path|state_dir) = "(.*)"', lambda m: _absolute(m[1], m[2]), text)
    near = f"\n[cache.near]\nembedder = {json.dumps(str(embedder.absolute()))}\nbudget_s = 0.5\n"
    config = folder / "near.toml"
    config.write_text(text + near)
    return config


def _absolute(key: str, path: str) -> str:
    return f"{key} = {json.dumps(str((_ROOT / 'demo' / path).resolve()))}"
