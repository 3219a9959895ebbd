"""A sentence-embedding model (MiniLM, or any BERT of its kind) in plain numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.errors import ConfigError

Vector = npt.NDArray[np.float32]
MAX_TOKENS = 128  # of one text; what follows changes its meaning little


class Sentences:
    """Embeds texts with the weights of a local Hugging Face directory.

    Mean of the last hidden states, scaled to length 1, as sentence-transformers' `all-MiniLM-*` do.

    Raises:
        ConfigError: the directory does not hold a BERT with safetensors and `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(f"cache.near: {error}; expected the extra `near`") from None
        try:
            config = json.loads((folder / "config.json").read_text())
            self._weights: dict[str, Vector] = load_file(folder / "model.safetensors")
            self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise ConfigError(f"cache.near.embedder: {folder}: {error}") from None
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise ConfigError(f"cache.near.embedder: {folder}: expected a BERT with gelu")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]

    def embed(self, text: str) -> Vector:
        """The direction of ``text``, `[hidden]`, float32, length 1."""
        ids = np.asarray(self._tokenizer.encode(text).ids)
        states = self._embedded(ids)
        for layer in range(self._layers):
            states = self._layer(f"encoder.layer.{layer}.", states)
        mean = states.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def _embedded(self, ids: npt.NDArray[Any]) -> Vector:
        weights = self._weights
        states = weights["embeddings.word_embeddings.weight"][ids]
        states = states + weights["embeddings.position_embeddings.weight"][: len(ids)]
        states = states + weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", states)

    def _layer(self, at: str, states: Vector) -> Vector:
        attended = self._attention(at + "attention.self.", states)
        attended = self._linear(at + "attention.output.dense", attended)
        states = self._norm(at + "attention.output.LayerNorm", states + attended)
        inner = _gelu(self._linear(at + "intermediate.dense", states))
        return self._norm(
            at + "output.LayerNorm", states + self._linear(at + "output.dense", inner)
        )

    def _attention(self, at: str, states: Vector) -> Vector:
        tokens, hidden = states.shape
        query, key, value = (
            self._linear(at + name, states).reshape(tokens, self._heads, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(hidden // self._heads))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ value).swapaxes(0, 1).reshape(tokens, hidden))

    def _linear(self, name: str, states: Vector) -> Vector:
        return np.asarray(
            states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        )

    def _norm(self, name: str, states: Vector) -> Vector:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return np.asarray(centred / deviation * weight + bias)


def _gelu(x: Vector) -> Vector:
    return np.asarray(x * np.float32(0.5) * (1 + _erf(x / np.sqrt(np.float32(2)))))


def _erf(x: Vector) -> Vector:
    """Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = np.full_like(t, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(factor)
    return np.asarray(np.sign(x) * (1 - series * t * np.exp(-x * x)))
