"""What `spillway engine` can be told, known without loading torch."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_PORT = 8001


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
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of every --model (default: float32)",
    )
    what.add_argument(
        "--draft",
        metavar="NAME",
        help="the --model that drafts for the others; they must share a vocabulary",
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


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with usage unless exactly one way of naming models was used."""
    if bool(options.config) == bool(options.model):
        parser.error("expected either --config FILE --engine NAME or --model NAME=DIR")
    if options.config and not options.engine:
        parser.error("--config needs --engine NAME")
