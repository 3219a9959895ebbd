"""`python -m demo train | evaluate | ask`: make the ladder, measure it, try it."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.recipe import ModelName

HERE = Path(__file__).parent
LADDER, RESULTS, README = HERE / "ladder", HERE / "results.json", HERE / "README.md"
CHECKPOINTS = HERE.parent / ".ladder"
NAMES: tuple[ModelName, ...] = ("brook", "creek", "river")

# Large tensors straight from the system cost a page fault a page at every step: half the time.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run what it asks for."""
    chosen = _parser().parse_args(arguments)
    chosen.run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train the ladder, smallest first")
    train.add_argument("--only", choices=NAMES, action="append")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoints")
    train.add_argument("--threads", type=int, default=os.cpu_count())
    train.set_defaults(run=_train)
    evaluate = commands.add_parser("evaluate", help="measure and write the README's table")
    evaluate.add_argument("--only", choices=NAMES, action="append")
    evaluate.set_defaults(run=_evaluate)
    ask = commands.add_parser("ask", help="ask every model one question")
    ask.add_argument("prompt")
    ask.set_defaults(run=_ask)
    return parser


def _train(chosen: argparse.Namespace) -> None:
    if not ALLOCATOR.items() <= os.environ.items():
        again = [sys.executable, "-m", "demo", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **ALLOCATOR})  # noqa: S606
    import torch

    from demo.recipe import RECIPES
    from demo.tokenizer import train_tokenizer
    from demo.training import Places, train

    torch.set_num_threads(chosen.threads)
    tokenizer = train_tokenizer()
    names: Sequence[ModelName] = chosen.only or NAMES
    for name in names:
        train(RECIPES[name], tokenizer, Places(CHECKPOINTS, LADDER), resume=chosen.resume)


def _evaluate(chosen: argparse.Namespace) -> None:
    from demo.evaluation import evaluate
    from demo.results import table, write

    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names: Sequence[ModelName] = chosen.only or NAMES
    results = evaluate(LADDER, names, known)
    write(results, RESULTS, README)
    print(table(results))


def _ask(chosen: argparse.Namespace) -> None:
    from demo.evaluation import answers
    from demo.tasks import Task

    question = Task("asked", chosen.prompt, "", long=False, size=0, phrasing=0)
    for name in NAMES:
        (answer,) = answers(LADDER / name, [question])
        print(f"{name} ({answer.confidence:.0%} sure):\n{answer.text}\n")


if __name__ == "__main__":
    main()
