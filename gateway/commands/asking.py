"""Asking the admin API of a running gateway, for every subcommand that does."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from gateway.errors import ConfigError, GatewayError

TOKEN_VARIABLE = "SPILLWAY_ADMIN_TOKEN"  # noqa: S105 - its name, not its value
_TIMEOUT_S = 10.0
_SLOW_S = 120.0


class AdminRefused(GatewayError):
    """The gateway did not do what it was asked."""


def url_option(parser: argparse.ArgumentParser) -> None:
    """Let the user name the gateway."""
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="the gateway (default: http://127.0.0.1:8000)",
    )


def ask(
    url: str,
    method: str,
    path: str,
    *,
    body: Any = None,
    etag: str | None = None,
    slow: bool = False,
) -> tuple[Any, str | None]:
    """The answer and its ETag.

    Raises:
        ConfigError: a URL that is none of HTTP.
        AdminRefused: the gateway is not there, or refuses.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url: got {url!r}; expected http:// or https://")
    headers = {"content-type": "application/json"}
    if token := os.environ.get(TOKEN_VARIABLE):
        headers["authorization"] = f"Bearer {token}"
    if etag is not None:
        headers["if-match"] = etag
    data = None if body is None else json.dumps(body).encode()
    request = Request(  # noqa: S310 - the scheme is checked above
        url.rstrip("/") + path, data=data, headers=headers, method=method
    )
    try:
        with urlopen(request, timeout=_SLOW_S if slow else _TIMEOUT_S) as response:  # noqa: S310
            return json.load(response), response.headers.get("etag")
    except HTTPError as error:
        text = error.read(2_000).decode("utf-8", "replace")
        raise AdminRefused(f"the gateway refused ({error.code}): {text}") from None
    except (URLError, TimeoutError, ValueError) as error:
        raise AdminRefused(f"no gateway at {url}: {error}") from None


def show(document: Any) -> None:
    """Print JSON as people read it."""
    json.dump(document, sys.stdout, indent=2)
    print()
