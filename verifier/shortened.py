"""A few layers of a Llama-like model in float32 and a small vocabulary, to look at it closely."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

MOST_TOKENS = 512
FEWEST_LAYERS = 2


def shortened(model: Any) -> Any:
    """A float32 copy of the first layers, one of each kind at least, and of the first tokens."""
    config = deepcopy(model.config)
    kinds = list(getattr(config, "layer_types", None) or ["same"] * config.num_hidden_layers)
    kept = sorted({kinds.index(kind) for kind in kinds} | set(range(FEWEST_LAYERS)))
    kept = [layer for layer in kept if layer < config.num_hidden_layers]
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [kinds[layer] for layer in kept]
    config.vocab_size = min(config.vocab_size, MOST_TOKENS)
    config.pad_token_id = None
    with no_init_weights():
        short = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    short.to(model.get_input_embeddings().weight.device)
    _fill(short, model, kept)
    return short.eval()


@torch.no_grad()
def _fill(short: Any, model: Any, kept: list[int]) -> None:
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, target in short.named_parameters(remove_duplicate=False):
        target.copy_(weights[_original(name, kept)][: target.shape[0]])


def _original(name: str, kept: list[int]) -> str:
    """``model.layers.1.…`` of the copy was another layer of the model."""
    before, found, after = name.partition(".layers.")
    if not found:
        return name
    number, _, rest = after.partition(".")
    return f"{before}.layers.{kept[int(number)]}.{rest}"
