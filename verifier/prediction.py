"""Predicts from headers and configs what models will take in memory, and refuses in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from verifier.checkpoint import Checkpoint, read_checkpoint
from verifier.errors import ModelRefused
from verifier.limits import longest_context
from verifier.loading import (
    LOAD_OVERHEAD,
    Device,
    Dtype,
    check_sizes,
    device_of,
    dtype_of,
    read_config,
)
from verifier.memory import free_bytes, free_device_bytes

HEADROOM = 128 * 2**20  # bytes for the interpreter's growth, tokenizers and small things
_MIB = 2**20
_NOT_LINEAR = ("embed", "lm_head", "wte", "wpe")


class Planned(NamedTuple):
    """A model that is about to be loaded."""

    name: str
    path: Path
    dtype: Dtype


class Limits(Protocol):
    """What of an engine's configuration takes memory."""

    @property
    def page_size(self) -> int: ...
    @property
    def pages(self) -> int | None: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def max_running(self) -> int: ...
    @property
    def max_nodes(self) -> int: ...
    @property
    def speculation(self) -> bool: ...
    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def draft_models(self) -> Mapping[str, str]: ...
    @property
    def exit_layers(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes of one model, by what takes them."""

    name: str
    weights: int
    pages: int  # committed keys and values
    contexts: int  # keys and values at hand of the running requests
    drafts: int = 0  # keys and values that who drafts for it keeps of the running requests
    scores: int  # logits of one full step, float32
    loading: int  # besides the weights, while they are loaded; free again afterwards

    @property
    def lasting(self) -> int:
        """What it takes once it runs."""
        return self.weights + self.pages + self.contexts + self.drafts + self.scores

    def __str__(self) -> str:
        parts = (
            f"{getattr(self, part) / _MIB:,.0f} of {part}"
            for part in ("weights", "pages", "contexts", "drafts", "scores")
        )
        return f"{self.name!r} {self.lasting / _MIB:,.0f} MiB ({', '.join(parts)})"


def check_fits(planned: Sequence[Planned], limits: Limits, device: Device) -> tuple[Needs, ...]:
    """Predict all of ``planned``, draft models among them, against what is free now.

    Raises:
        ModelRefused: they do not fit together; the message gives every number.
    """
    place = device_of(device)
    needs = tuple(predict(one, limits, place, others=planned) for one in planned)
    check_free(needs, free_device_bytes(place))
    if place.type != "cpu":  # weights pass through the host, one model at a time
        host = [
            Needs(name=one.name, weights=one.weights, pages=0, contexts=0, scores=0, loading=0)
            for one in needs
        ]
        check_free([max(host, key=lambda one: one.weights)], free_bytes())
    return needs


def check_free(needs: Sequence[Needs], free: int | None) -> None:
    """Refuse ``needs`` beyond ``free`` bytes; None is as much as one likes."""
    if not needs or free is None:
        return
    total = sum(one.lasting for one in needs) + max(one.loading for one in needs) + HEADROOM
    if total > free:
        raise ModelRefused(
            f"about {total / _MIB:,.0f} MiB are needed, but only {free / _MIB:,.0f} MiB are free: "
            f"{'; '.join(map(str, needs))}; {max(one.loading for one in needs) / _MIB:,.0f} MiB "
            f"while loading and {HEADROOM / _MIB:,.0f} MiB of headroom. A smaller cache_bytes or "
            "max_running, bfloat16 or fewer models would take less"
        )


def predict(
    planned: Planned, limits: Limits, device: torch.device, *, others: Sequence[Planned] = ()
) -> Needs:
    """What one model will take; its weights stay unread. Its draft model is among ``others``.

    Raises:
        ModelRefused: the directory cannot be served.
    """
    size = dtype_of(planned.dtype, device).itemsize
    checkpoint = read_checkpoint(planned.path)
    config = read_config(planned.path)
    check_sizes(config, checkpoint)
    text = config.get_text_config()
    stored = checkpoint.elements * size  # as they come from the files
    weights = stored - _saved(checkpoint) * (size - 1) if planned.dtype == "int8" else stored
    if device.type == "cpu" and getattr(config, "tie_word_embeddings", False):
        again = text.vocab_size * text.hidden_size * size  # the head, laid out once more
        weights, stored = weights + again, stored + again
    token = bytes_per_token(config, size)
    context = longest_context(config)
    pages = _pages(limits, token, context) * limits.page_size * token
    held = min(pages // token, limits.max_running * context)
    return Needs(
        name=planned.name,
        weights=weights,
        pages=pages,
        contexts=_grown(held * token),
        drafts=_drafts(planned.name, limits, device, others, held)
        + _exits(planned.name, limits, held * token, int(text.num_hidden_layers)),
        scores=limits.max_running * (1 + limits.max_nodes) * text.vocab_size * 4,
        loading=int(stored * LOAD_OVERHEAD) - weights,
    )


def _grown(size: int) -> int:
    """Contexts at hand grow in steps."""
    return size * 5 // 4


def _drafts(
    name: str, limits: Limits, device: torch.device, others: Sequence[Planned], held: int
) -> int:
    """Contexts that a draft model keeps for this target alone, of ``held`` tokens at most."""
    wanted = limits.draft_models.get(name) if _drafts_by(limits, "draft_model") else None
    for draft in others:
        if draft.name == wanted:
            config = read_config(draft.path)
            token = bytes_per_token(config, dtype_of(draft.dtype, device).itemsize)
            return _grown(min(held, limits.max_running * longest_context(config)) * token)
    return 0


def _exits(name: str, limits: Limits, contexts: int, layers: int) -> int:
    """Contexts of the model's own first layers, where these draft for it."""
    own = limits.exit_layers.get(name, 0) if _drafts_by(limits, "early_exit") else 0
    return _grown(contexts * own // layers)


def _drafts_by(limits: Limits, source: str) -> bool:
    return limits.speculation and source in limits.sources


def _saved(checkpoint: Checkpoint) -> int:
    """Numbers that take one byte in int8: matrices of linear layers."""
    matrices = (prod(shape) for name, shape in checkpoint.shapes.items() if _is_linear(name, shape))
    return sum(matrices)


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not any(part in name for part in _NOT_LINEAR)


def bytes_per_token(config: Any, size: int) -> int:
    """Keys and values of one token in all layers, in numbers of ``size`` bytes.

    Every layer takes as much as the widest.
    """
    text = config.get_text_config()
    layers = getattr(text, "per_layer_config", None)
    shapes = [_heads_and_width(layer) for layer in (layers or [text])]
    heads, width = max(heads for heads, _ in shapes), max(width for _, width in shapes)
    return 2 * int(text.num_hidden_layers) * heads * width * size


def _heads_and_width(layer: Any) -> tuple[int, int]:
    """Key heads, and the numbers of one."""
    heads = int(layer.num_attention_heads)
    if getattr(layer, "kv_lora_rank", None):  # latent attention is kept unfolded
        return heads, max(layer.qk_nope_head_dim + layer.qk_rope_head_dim, layer.v_head_dim)
    width = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    if getattr(layer, "multi_query", False):
        return 1, int(width)
    return int(getattr(layer, "num_key_value_heads", None) or heads), int(width)


def _pages(limits: Limits, token: int, context: int) -> int:
    if limits.pages is not None:
        return limits.pages
    affordable = limits.cache_bytes // (token * limits.page_size)
    return max(affordable, -(-context // limits.page_size))
