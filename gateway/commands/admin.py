"""`spillway admin`: reads and changes the thresholds of a running gateway over HTTP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from gateway.commands.asking import TOKEN_VARIABLE, ask, show, url_option
from gateway.errors import ConfigError


def add_admin(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = f"read and change the thresholds of a running gateway; ${TOKEN_VARIABLE} is shown to it"
    admin = commands.add_parser("admin", help=text, description=text)
    actions = admin.add_subparsers(title="actions", required=True, metavar="ACTION")
    about = "print the thresholds in force"
    get = actions.add_parser("get", help=about, description=about)
    url_option(get)
    get.set_defaults(run=_get)
    about = "change thresholds of one tier; the others stay"
    change = actions.add_parser("set", help=about, description=about)
    change.add_argument("tier", help="the tier to change")
    change.add_argument(
        "threshold", nargs="+", metavar="NAME=VALUE", help="for example start=0.4 accept=0.7"
    )
    change.add_argument(
        "--dry-run", action="store_true", help="check and show the change without making it"
    )
    url_option(change)
    change.set_defaults(run=_set)


def _get(options: argparse.Namespace) -> int:
    show(_ask(options.url, "GET")[0])
    return 0


def _set(options: argparse.Namespace) -> int:
    """Read, then change what was read: nobody else's change in between is overwritten."""
    wanted = {"tiers": {options.tier: _thresholds(options.threshold)}}
    etag = _ask(options.url, "GET")[1]
    query = "?dry_run=true" if options.dry_run else ""
    show(_ask(options.url, "PATCH", body=wanted, etag=etag, query=query)[0])
    return 0


def _thresholds(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for pair in given:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"threshold: got {pair!r}; expected NAME=NUMBER") from None
    return found


def _ask(
    url: str, method: str, *, body: Any = None, etag: str | None = None, query: str = ""
) -> tuple[Any, str | None]:
    return ask(url, method, f"/admin/cascade{query}", body=body, etag=etag)
