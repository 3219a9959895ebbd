"""One served model: its text in tokens and its tokens in text, as the wire format wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from gateway.generation import Json
from verifier.loading import LoadedModel
from verifier.request import TokenLogprob

_FINGERPRINT_HEX = 32


class Served:
    """A loaded model under the name clients ask for."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.name = model.name
        self.fingerprint = f"fp_{model.fingerprint[:_FINGERPRINT_HEX]}"
        self._texts: dict[int, tuple[str, list[int]]] = {}

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Tokens of a conversation under the model's template."""
        return self.model.render_chat(messages)

    def plain(self, text: str) -> tuple[int, ...]:
        """Tokens of a prompt, with what the tokenizer puts before it."""
        return self.model.encode(text)

    def continuation(self, text: str) -> tuple[int, ...]:
        """Tokens of text that stands in the middle: no special tokens."""
        return tuple(self.model.tokenizer.encode(text, add_special_tokens=False))

    def logprob_entry(self, found: TokenLogprob) -> dict[str, Json]:
        """One entry of the chat endpoint's `logprobs.content`."""
        return {
            **self._scored(found.token_id, found.logprob),
            "top_logprobs": [self._scored(token, score) for token, score in found.top],
        }

    def first_entry(self, token: int) -> dict[str, Json]:
        """The entry of a prompt's first token, which nothing predicts."""
        text, raw = self.text_of(token)
        return {"token": text, "logprob": None, "bytes": raw, "top_logprobs": None}

    def _scored(self, token: int, logprob: float) -> dict[str, Json]:
        text, raw = self.text_of(token)
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": raw}

    def text_of(self, token: int) -> tuple[str, list[int]]:
        """A token's text, U+FFFD where it is no whole character, and its exact bytes."""
        if token not in self._texts:
            self._texts[token] = self._spell(token)
        return self._texts[token]

    def _spell(self, token: int) -> tuple[str, list[int]]:
        piece = self.model.tokenizer.convert_ids_to_tokens(token)
        if isinstance(piece, str) and self._is_byte_level and all(c in _BYTE_OF for c in piece):
            raw = bytes(_BYTE_OF[c] for c in piece)
            return raw.decode("utf-8", "replace"), list(raw)
        text = str(self.model.tokenizer.decode([token], skip_special_tokens=False))
        return text, list(text.encode("utf-8"))

    @cached_property
    def _is_byte_level(self) -> bool:
        """Byte-level vocabularies write a space as U+0120; no other kind does."""
        return any("\u0120" in piece for piece in self.model.tokenizer.get_vocab())


_LEAST_LOGPROB = -9999.0  # OpenAI's value for "not at all"; JSON has no infinity


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
