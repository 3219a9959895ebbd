"""`spillway admin`: reads and changes the thresholds of a running gateway over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from gateway.errors import ConfigError, GatewayError

TOKEN_VARIABLE = "SPILLWAY_ADMIN_TOKEN"  # noqa: S105 - its name, not its value
_TIMEOUT_S = 10.0


class AdminRefused(GatewayError):
    """The gateway did not do what it was asked."""


def add_admin(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to ``commands``."""
    text = f"read and change the thresholds of a running gateway; ${TOKEN_VARIABLE} is shown to it"
    admin = commands.add_parser("admin", help=text, description=text)
    actions = admin.add_subparsers(title="actions", required=True, metavar="ACTION")
    about = "print the thresholds in force"
    get = actions.add_parser("get", help=about, description=about)
    _url_option(get)
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
    _url_option(change)
    change.set_defaults(run=_set)


def _url_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="the gateway (default: http://127.0.0.1:8000)",
    )


def _get(options: argparse.Namespace) -> int:
    _show(_ask(options.url, "GET")[0])
    return 0


def _set(options: argparse.Namespace) -> int:
    """Read, then change what was read: nobody else's change in between is overwritten."""
    wanted = {"tiers": {options.tier: _thresholds(options.threshold)}}
    etag = _ask(options.url, "GET")[1]
    query = "?dry_run=true" if options.dry_run else ""
    _show(_ask(options.url, "PATCH", body=wanted, etag=etag, query=query)[0])
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
    """The answer and its ETag."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url: got {url!r}; expected http:// or https://")
    headers = {"content-type": "application/json"}
    if token := os.environ.get(TOKEN_VARIABLE):
        headers["authorization"] = f"Bearer {token}"
    if etag is not None:
        headers["if-match"] = etag
    data = None if body is None else json.dumps(body).encode()
    request = Request(  # noqa: S310 - the scheme is checked above
        f"{url.rstrip('/')}/admin/cascade{query}", data=data, headers=headers, method=method
    )
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            return json.load(response), response.headers.get("etag")
    except HTTPError as error:
        text = error.read(2_000).decode("utf-8", "replace")
        raise AdminRefused(f"the gateway refused ({error.code}): {text}") from None
    except (URLError, TimeoutError, ValueError) as error:
        raise AdminRefused(f"no gateway at {url}: {error}") from None


def _show(document: Any) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
