"""The `spillway` command: every subcommand, every option explained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gateway.commands.admin import add_admin
from gateway.commands.cache import add_cache
from gateway.commands.engine import add_engine
from gateway.commands.keys import add_keys
from gateway.commands.serve import add_serve
from gateway.commands.verify import add_verify
from gateway.errors import ConfigError, GatewayError
from gateway.router_commands import add_steps

BAD_CONFIG = 78
_FAILED = 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="spillway",
        description="Answers from the cheapest model that is good enough, "
        "and makes the large one fast.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_serve, add_engine, add_verify, _add_router, add_keys, add_admin, add_cache):
        add(commands)
    return parser


def _add_router(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "collect outcomes of the tiers, train the difficulty router on them, evaluate it"
    router = commands.add_parser("router", help=text, description=text)
    add_steps(router.add_subparsers(title="steps", required=True, metavar="STEP"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(argv)
    try:
        return int(options.run(options))
    except GatewayError as error:
        print(f"spillway: {error}", file=sys.stderr)
        return BAD_CONFIG if isinstance(error, ConfigError) else _FAILED


if __name__ == "__main__":
    sys.exit(main())
