"""`spillway serve`: the gateway, and every engine the configuration does not place elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = "run the gateway, and every engine the configuration does not place elsewhere"
    parser = commands.add_parser("serve", help=text, description=text)
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)"
    )
    parser.add_argument("--host", help="address to listen on, instead of the configured one")
    parser.add_argument("--port", type=int, help="port, instead of the configured one; 0: any")
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from gateway.commands.serving import serve

    return serve(options.config, host=options.host, port=options.port)
