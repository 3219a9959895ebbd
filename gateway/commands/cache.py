"""`spillway cache`: what the response cache of a running gateway holds, and dropping from it."""

from __future__ import annotations

import argparse
from urllib.parse import urlencode

from gateway.commands.asking import TOKEN_VARIABLE, ask, show, url_option
from gateway.errors import ConfigError

_PATH = "/admin/cache"
_FAILED = 1


def add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = f"see and empty a running gateway's response cache; ${TOKEN_VARIABLE} is shown to it"
    cache = commands.add_parser("cache", help=text, description=text)
    actions = cache.add_subparsers(title="actions", required=True, metavar="ACTION")
    about = "print entries, bytes, lookups and hit rates by tenant and model"
    see = actions.add_parser("show", help=about, description=about)
    url_option(see)
    see.set_defaults(run=_see)
    _add_drop(actions)
    about = "check that the same salt hits and another salt misses, on every tier"
    test = actions.add_parser("selftest", help=about, description=about)
    url_option(test)
    test.set_defaults(run=_selftest)


def _add_drop(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "drop the answers that match everything given"
    drop = actions.add_parser("drop", help=about, description=about)
    drop.add_argument("--tenant", help="answers given to this tenant")
    drop.add_argument("--model", help="answers to requests for this model, auto among them")
    drop.add_argument("--tier", help="answers that this tier gave")
    drop.add_argument(
        "--older-than", type=float, metavar="SECONDS", help="answers made longer ago than this"
    )
    drop.add_argument("--key", help="the answer whose key, as receipts show it, begins like this")
    drop.add_argument("--all", action="store_true", help="every answer")
    drop.add_argument(
        "--dry-run", action="store_true", help="count what would be dropped, and drop nothing"
    )
    url_option(drop)
    drop.set_defaults(run=_drop)


def _see(options: argparse.Namespace) -> int:
    show(ask(options.url, "GET", _PATH, slow=True)[0])
    return 0


def _drop(options: argparse.Namespace) -> int:
    wanted = {
        "tenant": options.tenant,
        "model": options.model,
        "tier": options.tier,
        "older_than_s": None if options.older_than is None else f"{options.older_than:f}",
        "key": options.key,
        "all": "true" if options.all else None,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise ConfigError("got nothing to drop by; expected --tenant, --model, ... or --all")
    if options.dry_run:
        given["dry_run"] = "true"
    show(ask(options.url, "DELETE", f"{_PATH}?{urlencode(given)}", slow=True)[0])
    return 0


def _selftest(options: argparse.Namespace) -> int:
    document = ask(options.url, "POST", f"{_PATH}/selftest", slow=True)[0]
    show(document)
    return 0 if document.get("passed") else _FAILED
