"""Pydantic's findings in OpenAI's words: one message, one `param`, one code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import ApiError

_CODES = {
    "missing": "missing_required_parameter",
    "unsupported": "unsupported_parameter",
    "extra_forbidden": "unknown_parameter",
    "less_than_equal": "above_max_value",
    "less_than": "above_max_value",
    "greater_than_equal": "below_min_value",
    "greater_than": "below_min_value",
    "too_long": "array_above_max_length",
    "too_short": "empty_array",
    "string_too_long": "string_above_max_length",
    "string_too_short": "empty_string",
    "literal_error": "invalid_value",
}
_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_SHOWN = 64  # characters of a client's own key or value that a message repeats

Path = tuple[str | int, ...]


def refusal(error: ValidationError, data: Mapping[str, Any]) -> ApiError:
    """The error a client sees: the deepest of the most telling findings."""
    found = [
        (path_in(data, one["loc"], one["type"]), one)
        for one in _telling(error.errors(include_url=False))
    ]
    path = max((path for path, _ in found), key=len)
    here = [one for other, one in found if other == path]
    name = spelled(path)
    return ApiError(400, _message(name, here), param=name or None, code=_code(here))


def _telling(found: list[ErrorDetails]) -> list[ErrorDetails]:
    """A union reports every branch; those that merely wanted another type say the least."""
    unsupported = [one for one in found if one["type"] == "unsupported"]
    return unsupported or [one for one in found if not one["type"].endswith("_type")] or found


def path_in(data: Any, loc: Sequence[str | int], kind: str) -> Path:
    """``loc`` less what pydantic adds for unions: only the steps that exist in the data."""
    path: list[str | int] = []
    here = data
    for position, step in enumerate(loc):
        if _leads_on(here, step):
            here = here[step]
        elif not (kind == "missing" and position == len(loc) - 1):
            continue
        path.append(step)
    return tuple(path)


def _leads_on(here: Any, step: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(step, int) and step < len(here)
    return isinstance(here, dict) and step in here


def spelled(path: Path) -> str:
    """``("messages", 0, "content")`` as ``messages[0].content``."""
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        else:
            shown = step[:_SHOWN].encode("utf-8", "replace").decode()
            name += f".{shown}" if name else shown
    return name


def _message(name: str, here: Sequence[ErrorDetails]) -> str:
    first = here[0]
    if first["type"] == "extra_forbidden":
        return f"Unrecognized request argument supplied: {name}"
    if first["type"] == "missing":
        return f"Missing required parameter: '{name}'."
    if first["type"] == "unsupported":
        return f"Unsupported parameter: '{name}'. This server does not offer it; leave it out."
    wanted = " or ".join(dict.fromkeys(_lower(one["msg"]) for one in here))
    return f"Invalid value for '{name}': {wanted}; got {_got(first['input'])}."


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _got(value: Any) -> str:
    kind = _KINDS.get(type(value), "something else")
    if isinstance(value, bool | int | float):
        return f"{kind} ({str(value)[:_SHOWN]})" if abs(value) < 1e300 else f"{kind} out of range"
    if isinstance(value, str | list | dict):
        return f"{kind} of length {len(value)}"
    return kind


def _code(here: Sequence[ErrorDetails]) -> str:
    if len(here) > 1:
        return "invalid_type"
    return _CODES.get(
        here[0]["type"], "invalid_type" if "type" in here[0]["type"] else "invalid_value"
    )
