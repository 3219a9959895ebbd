"""Bytes of a request body to a validated request, or an error that names the parameter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import ValidationError

from gateway.errors import ApiError
from gateway.wire.chat import ChatRequest, EngineChatRequest
from gateway.wire.completion import CompletionRequest, EngineCompletionRequest
from gateway.wire.fields import MAX_CHOICES, CommonRequest
from gateway.wire.problems import refusal

Face = Literal["client", "engine"]
OFF_LOOP_BYTES = 256 * 1024
"""Bodies above this size are parsed on a thread of their own, so that the loop stays free."""

MAX_KEYS = 512  # of one object
MAX_OBJECTS = 20_000  # of one body

_Request = TypeVar("_Request", bound=CommonRequest)
_parser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parse")


def parse_chat(raw: bytes, face: Face = "client") -> ChatRequest:
    """Read a chat request; ``face="engine"`` also takes what only a gateway may send.

    Raises:
        ApiError: 400, its ``param`` like ``messages[0].content``.
    """
    wanted = _read(raw, EngineChatRequest if face == "engine" else ChatRequest)
    if wanted.max_tokens is not None and wanted.max_completion_tokens is not None:
        _refuse(
            "max_tokens",
            "'max_tokens' and 'max_completion_tokens' were both sent; expected at most one.",
        )
    if wanted.top_logprobs is not None and not wanted.logprobs:
        _refuse("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")
    return wanted


def parse_completion(raw: bytes, face: Face = "client") -> CompletionRequest:
    """Read a text completion request; ``face`` and errors as for ``parse_chat``."""
    wanted = _read(raw, EngineCompletionRequest if face == "engine" else CompletionRequest)
    choices = len(wanted.prompts()) * (wanted.n or 1)
    if choices > MAX_CHOICES:
        _refuse(
            "n",
            f"{choices} choices were asked for (prompts times n); expected at most {MAX_CHOICES}.",
        )
    if wanted.max_tokens == 0 and not wanted.echo:
        _refuse("max_tokens", "'max_tokens' is 0; expected at least 1, or 'echo' to be true.")
    return wanted


async def off_loop(parse: Any, raw: bytes, face: Face = "client") -> Any:
    """Run ``parse(raw, face)`` here when the body is small, else without blocking the loop."""
    if len(raw) <= OFF_LOOP_BYTES:
        return parse(raw, face)
    return await asyncio.get_running_loop().run_in_executor(_parser, parse, raw, face)


def _read(raw: bytes, model: type[_Request]) -> _Request:
    data = load_object(raw)
    try:
        wanted = model.model_validate(data)
    except ValidationError as error:
        raise refusal(error, data) from None
    if wanted.stream_options is not None and not wanted.stream:
        _refuse("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    return wanted


def load_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object strictly: UTF-8, no repeated key, bounded depth.

    NaN and infinities pass, for the request's types refuse them under the name of their field.

    Raises:
        ApiError: 400 saying what is wrong and, for JSON, where.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(None, f"The body is not valid UTF-8 (byte {error.start}).")
    data = _load(text)
    if not isinstance(data, dict):
        _refuse(None, f"The body is {_kind(data)}; expected a JSON object.")
    if "\\ud" in text or "\\uD" in text:
        _refuse_lone_surrogates(data)
    return data


def _load(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=float, object_pairs_hook=_Objects().make)
    except json.JSONDecodeError as error:
        _refuse(
            None,
            f"We could not parse the JSON body: {error.msg} "
            f"(line {error.lineno}, column {error.colno}).",
        )
    except RecursionError:
        _refuse(None, "The JSON body is nested too deeply.")
    except ValueError:  # an integer of thousands of digits
        _refuse(None, "The JSON body holds a number that is too long.")


class _Objects:
    """Builds the objects of one body. Their bounds keep hostile bodies from costing seconds."""

    def __init__(self) -> None:
        self._left = MAX_OBJECTS

    def make(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """One object from its keys and values in order."""
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse(_first_repeated(key for key, _ in pairs), "The JSON body repeats a key.")
        if len(pairs) > MAX_KEYS:
            _refuse(None, f"An object has {len(pairs)} keys; expected at most {MAX_KEYS}.")
        self._left -= 1
        if self._left < 0:
            _refuse(None, f"The JSON body holds too many objects; expected at most {MAX_OBJECTS}.")
        return found


def _first_repeated(keys: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key[:64].encode("utf-8", "replace").decode()
        seen.add(key)
    return None


def _refuse_lone_surrogates(data: Any) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _refuse(None, "The JSON body holds half of a surrogate pair, which is not text.")


def _kind(data: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(data), "a number")


def _refuse(param: str | None, message: str) -> NoReturn:
    raise ApiError(400, message, param=param)
