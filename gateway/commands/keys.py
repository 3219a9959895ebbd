"""`spillway keys`: API keys and their entries in `keys.toml`."""

from __future__ import annotations

import argparse


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = "make API keys"
    keys = commands.add_parser("keys", help=text, description=text)
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")
    about = "print a new key and the entry of keys.toml that lets it in; the key is kept nowhere"
    new = actions.add_parser("new", help=about, description=about)
    new.add_argument("--tenant", default="default", help="whose key it is (default: default)")
    new.add_argument(
        "--role",
        action="append",
        default=[],
        help="a role of the key: reader, operator, admin or metrics; may be repeated",
    )
    new.add_argument(
        "--allow-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="a model the key may ask for (default: all); may be repeated",
    )
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> int:
    from gateway.commands.new_key import new_key

    made = new_key(options.tenant, roles=options.role, models=options.allow_model)
    print(f"{made.key}\n\n# in keys.toml:\n{made.entry}")
    return 0
