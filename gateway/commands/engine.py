"""`spillway engine`: becomes an engine process; torch is loaded there, never here."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError

DEFAULT_PORT = 8001


def add_engine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = "run one engine: models behind OpenAI's wire format, without routing or caches"
    parser = commands.add_parser("engine", help=text, description=text)
    add_options(parser)
    parser.set_defaults(run=lambda options: _become_engine(parser, options))


def _become_engine(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    check_options(parser, options)
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("engine: got no torch; expected an installation of spillway[engine]")
    command = [sys.executable, "-m", "gateway.engine", *as_arguments(options)]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606


def as_arguments(options: argparse.Namespace) -> Sequence[str]:
    """The command line that says what ``options`` say."""
    arguments = []
    for name in _NAMES:
        value = getattr(options, name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                flag = f"--{name.replace('_', '-')}"
                arguments += [flag] if one is True else [flag, str(one)]
    return arguments


_NAMES = (
    *("config", "engine", "model", "dtype", "draft", "device", "threads"),
    *("socket", "host", "port", "end_with_stdin"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of the command."""
    what = parser.add_argument_group("what to serve")
    what.add_argument("--config", type=Path, metavar="FILE", help="a Spillway configuration (TOML)")
    what.add_argument("--engine", metavar="NAME", help="the entry of [[engines]] in FILE to run")
    what.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="serve a Hugging Face directory without a configuration; may be repeated",
    )
    what.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="number format of every --model; float16 on a GPU, int8 on a CPU (default: float32)",
    )
    what.add_argument(
        "--draft",
        metavar="NAME",
        help="the --model that drafts for the others; they must share a vocabulary",
    )
    what.add_argument(
        "--device",
        choices=("cpu", "cuda", "auto"),
        help="where to compute; auto: cuda where there is one (default: the configuration's, cpu)",
    )
    what.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of a forward (default: torch's choice)",
    )
    where = parser.add_argument_group("where to listen")
    where.add_argument(
        "--socket", type=Path, metavar="PATH", help="a unix socket instead of a port"
    )
    where.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    where.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"TCP port (default: {DEFAULT_PORT})"
    )
    where.add_argument(
        "--end-with-stdin", action="store_true", help="stop when standard input is closed"
    )


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with usage unless exactly one way of naming models was used."""
    if bool(options.config) == bool(options.model):
        parser.error("expected either --config FILE --engine NAME or --model NAME=DIR")
    if options.config and not options.engine:
        parser.error("--config needs --engine NAME")
