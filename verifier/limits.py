"""How long a request a model's positions allow, and where they begin to turn otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verifier.errors import ModelRefused


def longest_context(config: Any) -> int:
    """Tokens of the longest request that is served.

    Raises:
        ModelRefused: the config names no length.
    """
    text = config.get_text_config()
    named = getattr(text, "max_position_embeddings", None)
    if not isinstance(named, int) or named < 1:
        raise ModelRefused(f"got max_position_embeddings {named!r}; expected a number of tokens")
    return named


def rotary_switch(config: Any) -> int | None:
    """Tokens of a text beyond which transformers turns all of its positions otherwise (longrope).

    None where the longest request does not get there, or the model has no such switch. "dynamic"
    has none: its frequencies change beyond ``max_position_embeddings`` only.

    Raises:
        ModelRefused: layers that switch at different lengths.
    """
    text = config.get_text_config()
    switches = {
        int(one["original_max_position_embeddings"])
        for one in _rotary(getattr(text, "rope_parameters", None))
        if one.get("rope_type") == "longrope"
    }
    if len(switches) > 1:
        raise ModelRefused(f"its layers switch their rotary frequencies at {sorted(switches)}")
    return next((one for one in switches if one < longest_context(config)), None)


def _rotary(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """Rotary parameters of all layers, which some configs keep by type of layer."""
    if isinstance(parameters, Mapping):
        if "rope_type" in parameters:
            yield parameters
        else:
            for one in parameters.values():
                yield from _rotary(one)
