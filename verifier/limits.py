"""How long a request a model's positions allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from verifier.errors import ModelRefused


def longest_context(config: Any) -> int:
    """Tokens of the longest request that is served.

    Frequencies that change with the length of a text (longrope) are served up to the change, where
    keys at hand would have to be computed anew.

    Raises:
        ModelRefused: the config names no length.
    """
    text = config.get_text_config()
    named = getattr(text, "max_position_embeddings", None)
    if not isinstance(named, int) or named < 1:
        raise ModelRefused(f"got max_position_embeddings {named!r}; expected a number of tokens")
    switches = [
        int(one["original_max_position_embeddings"])
        for one in _rotary(getattr(text, "rope_parameters", None))
        if one.get("rope_type") == "longrope"
    ]
    return min([named, *switches])


def _rotary(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """Rotary parameters of all layers, which some configs keep by type of layer."""
    if isinstance(parameters, Mapping):
        if "rope_type" in parameters:
            yield parameters
        else:
            for one in parameters.values():
                yield from _rotary(one)
