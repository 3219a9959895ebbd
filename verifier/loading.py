"""Turns a local Hugging Face directory into a model that can be served, or says why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Weights, tokenizer and chat template of one decoder.

    ``fingerprint`` is the hex SHA-256 over weights, config, tokenizer, template and dtype;
    ``weights_digest`` is the SHA-256 over the weight files alone (32 bytes).
    """

    name: str
    dtype: torch.dtype
    config: Any
    tokenizer: Any
    network: Any
    fingerprint: str
    weights_digest: bytes
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Tokens of ``messages`` under the model's chat template, with the assistant's opening."""
        raise NotImplementedError

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of plain ``text``, with the special tokens the tokenizer adds."""
        raise NotImplementedError

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, special tokens left out."""
        raise NotImplementedError


def load_model(path: str | Path, *, dtype: Dtype = "float32", name: str) -> LoadedModel:
    """Load a decoder from ``path``: safetensors only, local files only, never remote code.

    Raises:
        ModelRefused: no such directory, pickled weights, an architecture that cannot be served,
            or more memory than this machine has free.
    """
    raise NotImplementedError
