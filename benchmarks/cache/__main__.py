"""Measures the caches over a real redis-server: `python -m benchmarks.cache`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cache import blocks, litellm, near, prefixes, responses, single_flight
from benchmarks.cache.front import upstream
from benchmarks.cache.redis_server import running
from benchmarks.machine import machine

RESULT = Path("benchmarks/results/cache.json")
PARTS = ("blocks", "prefixes", "responses", "single_flight", "near", "litellm")


def main() -> None:
    """Run what was asked for and add it to the results."""
    options = _options()
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as redis:
        found = _measured(options, Path(name), redis)
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.parent.mkdir(exist_ok=True)
    document = {**kept, "machine": machine(), **found}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _measured(options: argparse.Namespace, folder: Path, redis: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    parts = options.only or [part for part in PARTS if _possible(part, options)]
    if "blocks" in parts:
        found["blocks_gb_per_s"] = blocks.measure(redis)
    if "prefixes" in parts:
        found["prefixes"] = prefixes.measure(redis)
    if "responses" in parts:
        with upstream(folder) as url:
            found |= responses.measure(folder, url, redis.url, options.seconds)
    if "litellm" in parts:
        with upstream(folder) as url:
            found["litellm"] = litellm.measure(folder, url, redis, options.litellm, options.seconds)
    if "single_flight" in parts:
        found["single_flight"] = single_flight.measure(folder, redis.url, options.trials)
    if "near" in parts:
        found["near"] = near.measure(folder, options.embedder)
    return found


def _possible(part: str, options: argparse.Namespace) -> bool:
    return {"near": options.embedder, "litellm": options.litellm}.get(part, True) is not None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (default: 8)")
    parser.add_argument("--trials", type=int, default=20, help="leaders to kill (default: 20)")
    parser.add_argument("--embedder", type=Path, help="directory of a sentence-embedding BERT")
    parser.add_argument("--litellm", type=Path, help="the `litellm` program of an environment")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"default: {RESULT}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
