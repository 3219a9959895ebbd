"""What a request says: the text to answer, what came before it, and how many turns there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Request = str | Sequence[Mapping[str, Any]]
"""A prompt, or messages in OpenAI's chat format (content a string or a list of parts)."""

_SYSTEM_ROLES = frozenset({"system", "developer"})


class RequestText(NamedTuple):
    """The parts of a request that tell how hard it is; ``turns`` counts all but system messages."""

    asked: str
    earlier: str
    system: str
    turns: int


def request_text(request: Request) -> RequestText:
    """Split a request into what is asked last, the turns before it, and the system prompt."""
    if isinstance(request, str):
        return RequestText(request, "", "", 1)
    said = [(str(message.get("role", "user")), _content(message)) for message in request]
    system = "\n".join(text for role, text in said if role in _SYSTEM_ROLES)
    turns = [text for role, text in said if role not in _SYSTEM_ROLES]
    asked = turns[-1] if turns else system
    return RequestText(asked, "\n".join(turns[:-1]), system, len(turns))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(_part_texts(content)) if isinstance(content, Sequence) else ""


def _part_texts(parts: Sequence[Any]) -> Iterator[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        if isinstance(text, str):
            yield text
