"""`spillway verify`: runs the proofs on a user's own model, in a process of its own with torch."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError

_TEXT = (
    "run a model with and without drafts, in every kind of batch, and certify that no token of any "
    "text changed; exit status 0: it held, 1: it did not"
)


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    parser = commands.add_parser("verify", help=_TEXT.partition(";")[0], description=_TEXT)
    add_options(parser)
    parser.set_defaults(run=lambda options: _become_verifier(as_arguments(options)))


def _become_verifier(arguments: Sequence[str]) -> int:
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("verify: got no torch; expected an installation of spillway[engine]")
    sys.stdout.flush()
    os.execv(  # noqa: S606
        sys.executable, [sys.executable, "-m", "gateway.engine.verify", *arguments]
    )


def as_arguments(options: argparse.Namespace) -> list[str]:
    """The command line that says what ``options`` say."""
    arguments: list[str] = []
    for name in _NAMES:
        value = getattr(options, name)
        if value is not None and value is not False:
            flag = f"--{name.replace('_', '-')}"
            arguments += [flag] if value is True else [flag, str(value)]
    return arguments


_NAMES = (
    *("model", "draft", "dtype", "device", "threads", "requests", "tokens", "prompts"),
    *("thorough", "no_generate", "json", "quiet"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of the command."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="a Hugging Face directory"
    )
    parser.add_argument(
        "--draft", type=Path, metavar="DIR", help="a smaller model of the same vocabulary"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "both"),
        default="both",
        help="number formats to run (default: both)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "auto"), default="cpu", help="(default: cpu)"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: torch's choice)"
    )
    _add_extent(parser)
    parser.add_argument("--json", action="store_true", help="print the certificate as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def _add_extent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests",
        type=positive,
        default=27,
        metavar="N",
        help="requests of every run (default: 27, every processor at every temperature once)",
    )
    parser.add_argument(
        "--tokens", type=positive, default=32, metavar="N", help="most of one text (default: 32)"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="your prompts, one a line (default: built in)"
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="every draft source by every tree size by every kind of batch",
    )
    parser.add_argument(
        "--no-generate", action="store_true", help="leave transformers' generate out"
    )


def positive(given: str) -> int:
    """An integer of 1 or more."""
    value = int(given)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; expected at least 1")
    return value
