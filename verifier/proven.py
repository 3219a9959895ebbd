"""Builds the leanest network that the probe proves for a model, or says why there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch

from verifier.attention_network import AttentionNetwork
from verifier.errors import ModelRefused
from verifier.llama import MODEL_TYPES, LlamaNetwork, check_config
from verifier.network import Network
from verifier.packing import pack
from verifier.probe import (
    LONGEST_WINDOW,
    Reference,
    check,
    make_case,
    narrowed,
    plain_forwards,
)
from verifier.shortened import shortened
from verifier.upcast import upcast

logger = logging.getLogger(__name__)

MOST_CONVERTED = 1_500_000_000
"""Numbers in a half-precision model that the probe still computes in float32 on a CPU."""

LoadingPath = Literal["lean", "attention"]


class Proven(NamedTuple):
    """A network, how it runs, and what the probe measured."""

    network: Network
    path: LoadingPath
    difference: float  # of a logit, in standard deviations of all
    vocab_size: int


class _Unpackable(ModelRefused):
    """Only what was done for speed is at fault."""


def proven_network(
    load: Callable[[], Any],
    name: str,
    context: int,
    switch: int | None = None,
    *,
    lean: bool = True,
) -> Proven:
    """``load`` gives the transformers model; called again where the lean path fails the probe.

    Args:
        context: the longest request in tokens; the probe looks at its end too.
        switch: tokens beyond which a text's positions turn otherwise; None: nowhere.
        lean: whether the lean path may be taken.

    Raises:
        ModelRefused: no path gives the logits of plain forwards.
    """
    model = load()
    if lean and _may_be_lean(model.config):
        try:
            return _lean(model, context)
        except ModelRefused as refused:
            logger.warning("%s leaves the lean path: %s", name, refused)
        model = load()  # the lean path emptied its blocks
    try:
        return _through_attention(model, context, switch, packed=True)
    except _Unpackable as refused:
        logger.warning("%s keeps its linear layers as they are: %s", name, refused)
        return _through_attention(load(), context, switch, packed=False)
    except ModelRefused as refused:
        raise ModelRefused(f"{model.config.model_type!r} is not served: {refused}") from refused


def _may_be_lean(config: Any) -> bool:
    if config.model_type not in MODEL_TYPES:
        return False
    try:
        check_config(config)
    except ModelRefused as refused:
        logger.info("not the lean path: %s", refused)
        return False
    return True


def _lean(model: Any, context: int) -> Proven:
    """In half precision a float32 copy of a few layers is looked at closely, the whole roughly."""
    dtype = model.get_input_embeddings().weight.dtype
    if dtype != torch.float32:
        _lean_network(shortened(model), context)
    return _lean_network(model, context)


def _lean_network(model: Any, context: int) -> Proven:
    with narrowed(model.config) as window:
        reference = _plain(model, context, None)
        network = LlamaNetwork(model)
        difference = check(network, reference, network.cache_shape.dtype)
    if window is not None:
        network.widen(window)
    return Proven(network, "lean", difference, reference.logits.shape[1])


def _through_attention(model: Any, context: int, switch: int | None, *, packed: bool) -> Proven:
    network: AttentionNetwork = _foreign(AttentionNetwork, model, switch)
    with narrowed(model.config) as window:
        dtype = _precision(model)
        with upcast(model) if dtype == torch.float32 else nullcontext():
            reference = _plain(model, context, _widest(network, window))
            reference = reference._replace(switch=switch)
            difference: float = _foreign(check, network, reference, dtype)
        if packed:
            _pack(model, network, reference)
    return Proven(network, "attention", difference, reference.logits.shape[1])


def _pack(model: Any, network: AttentionNetwork, reference: Reference) -> None:
    """Lay the weights out for speed, and look once more."""
    if not pack(model):
        return
    try:
        _foreign(check, network, reference, network.cache_shape.dtype)
    except ModelRefused as refused:
        raise _Unpackable(str(refused)) from refused


def _widest(network: AttentionNetwork, narrowed: int | None) -> int | None:
    """The longest window that did not narrow, but is short enough to look beyond."""
    widest = max(network.windows - {None, narrowed}, default=None)  # type: ignore[type-var]
    if widest is not None and widest > LONGEST_WINDOW:
        raise ModelRefused(f"its window of {widest} tokens cannot be narrowed to look beyond it")
    return widest


def _plain(model: Any, context: int, window: int | None) -> Reference:
    case = make_case(int(model.config.get_text_config().vocab_size), context, window)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    reference: Reference = _foreign(plain_forwards, model, case)
    model.set_attn_implementation(before)
    return reference


def _precision(model: Any) -> torch.dtype:
    """float32, which tells rounding from error; a large model is spared the conversion."""
    weight: torch.Tensor = model.get_input_embeddings().weight
    small = model.num_parameters() <= MOST_CONVERTED or weight.is_cuda
    return torch.float32 if small else weight.dtype


def _foreign(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run what calls a model's own code, which may fail in any way it likes."""
    try:
        return run(*arguments)
    except ModelRefused:
        raise
    except Exception as error:
        raise ModelRefused(f"its forward fails with {type(error).__name__}: {error}") from error
