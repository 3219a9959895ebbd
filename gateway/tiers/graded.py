"""Prompts with known answers, and what counts as right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.generation import Json
from router_model.outcomes import SPLITS, Split, split_of
from router_model.request_text import Request


class CollectError(GatewayError):
    """A prompt that cannot be read, or a tier that cannot be asked; says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt and what counts as right: the ``expected`` text, or a ``pattern`` it must match."""

    request: Request
    split: Split
    expected: str | None = None
    pattern: re.Pattern[str] | None = None
    family: str | None = None

    def grade(self, answer: str) -> bool:
        """Exact match apart from surrounding blanks, or a match of the whole answer."""
        if self.pattern is not None:
            return self.pattern.fullmatch(answer.strip()) is not None
        return answer.strip() == (self.expected or "").strip()


def parse_prompt(record: Json, where: str) -> Prompt:
    """One prompt of a JSON object: ``prompt`` or ``messages``; ``expected`` or ``pattern``.

    Optional: ``family``, and ``split``, which is chosen by a hash of the prompt where it is
    missing. Raises CollectError naming ``where`` and the key.
    """
    if not isinstance(record, Mapping):
        raise CollectError(f"{where}: got {type(record).__name__}, expected a JSON object")
    unknown = sorted(record.keys() - _PROMPT_KEYS)
    if unknown:
        raise CollectError(f"{where}: {unknown[0]}: unknown key, expected {sorted(_PROMPT_KEYS)}")
    for one, other in (("prompt", "messages"), ("expected", "pattern")):
        if (one in record) == (other in record):
            raise CollectError(f"{where}: expected exactly one of {one} and {other}")
    request: Request = record["prompt"] if "prompt" in record else tuple(record["messages"])
    split: Split = record.get("split") or split_of(request)
    if split not in SPLITS:
        raise CollectError(f"{where}: split: got {split!r}, expected one of {SPLITS}")
    pattern = record.get("pattern")
    return Prompt(
        request=request,
        split=split,
        expected=record.get("expected"),
        pattern=re.compile(pattern, re.DOTALL) if pattern is not None else None,
        family=record.get("family"),
    )


_PROMPT_KEYS = frozenset({"prompt", "messages", "expected", "pattern", "family", "split"})


def read_prompts(lines: Iterable[str], source: str) -> list[Prompt]:
    """Prompts of JSON lines; blank lines are skipped. Raises CollectError naming the line."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{source}:{number}"
            try:
                found.append(parse_prompt(json.loads(line), where))
            except (ValueError, TypeError, re.error) as error:
                raise CollectError(f"{where}: expected a prompt in JSON, got {error}") from error
    return found
