"""A conversation in tokens, such that nothing anybody writes in it is read as chat markup."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from verifier.errors import RequestRefused

Messages = Sequence[Mapping[str, Any]]


def chat_tokens(tokenizer: Any, messages: Messages) -> tuple[int, ...]:
    """Tokens of ``messages`` under the tokenizer's template, with the assistant's opening.

    Special tokens come from the template alone; where a message spells one, it stays plain text.

    Raises:
        RequestRefused: such a message, and a tokenizer that cannot keep it plain.
        jinja2.TemplateError, TypeError, ValueError: the template refuses the messages.
    """
    special = _special(tokenizer)
    spelled = any(text in one["content"] for one in messages for text in special.values())
    tokens = () if spelled else _plainly(tokenizer, messages)
    innocent = [{**one, "content": "x"} for one in messages]
    # Some tokenizers normalise before they look for markup, so that it need not be spelled out.
    if spelled or _count(tokens, special) != _count(_plainly(tokenizer, innocent), special):
        return tuple(_guarded(tokenizer, messages, special))
    return tokens


def _plainly(tokenizer: Any, messages: Messages) -> tuple[int, ...]:
    return tuple(tokenizer(_rendered(tokenizer, messages), add_special_tokens=False)["input_ids"])


def _guarded(tokenizer: Any, messages: Messages, special: Mapping[int, str]) -> Iterator[int]:
    """The template's own special tokens, and between them text in which none is recognised."""
    plain = _plain(tokenizer)
    if plain is None:
        raise RequestRefused(
            "a message spells a special token, which this model's tokenizer cannot read as text",
            param="messages",
        )
    ids = {text: token for token, text in special.items()}
    run = ""
    for part, is_markup in _parts(tokenizer, messages, list(ids)):
        if is_markup:
            yield from plain.encode(run, add_special_tokens=False).ids
            yield ids[part]
            run = ""
        else:
            run += part
    yield from plain.encode(run, add_special_tokens=False).ids


def _parts(
    tokenizer: Any, messages: Messages, special: Sequence[str]
) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces, and whether each is a special token of the template."""
    nonce = secrets.token_hex(16)
    marked = [{**one, "content": f"{nonce}-{at}-"} for at, one in enumerate(messages)]
    pieces = re.split(f"{nonce}-([0-9]+)-", _rendered(tokenizer, marked))
    longest_first = sorted(special, key=len, reverse=True)
    markup = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    for place, piece in enumerate(pieces):
        if place % 2:
            yield messages[int(piece)]["content"], False
            continue
        for at, part in enumerate(markup.split(piece)):
            yield part, at % 2 == 1


def _rendered(tokenizer: Any, messages: Messages) -> str:
    text: str = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return text


def _special(tokenizer: Any) -> dict[int, str]:
    """What the tokenizer takes for markup, by id."""
    added = tokenizer.added_tokens_decoder.items()
    return {int(token): one.content for token, one in added if one.special}


def _count(tokens: Sequence[int], special: Mapping[int, str]) -> int:
    return sum(token in special for token in tokens)


@lru_cache(maxsize=8)
def _plain(tokenizer: Any) -> Tokenizer | None:
    """A copy that reads every special token as text; the original is shared between threads."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return None
    copy = Tokenizer.from_str(fast.to_str())
    copy.encode_special_tokens = True
    return copy
