"""A Llama of random weights, large enough for a CPU to be bound by memory as a GPU is."""

from __future__ import annotations

import shutil
from pathlib import Path

VOCABULARY = 4096
CONTEXT = 2048
BLOCK_SCALE = 0.02
"""Standard deviation of the weights of blocks, Llama's own; embeddings have 1."""


def write_random_llama(
    folder: Path, tokenizer_of: Path, *, layers: int = 12, width: int = 768, seed: int = 7
) -> None:
    """Write bfloat16 weights; the defaults have 81.8M parameters.

    The output matrix holds the embeddings in another order. So the token after each token is
    decided by a wide margin, and the greedy text does not depend on rounding, as it otherwise
    would in bfloat16 with random weights. It repeats nothing within the context. What is computed,
    and how long it takes, is the same.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 192),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=BLOCK_SCALE,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight.normal_(0.0, 1.0)
        model.get_output_embeddings().weight.copy_(embedding[one_cycle(VOCABULARY, seed)])
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_of / name, folder / name)


def one_cycle(size: int, seed: int) -> list[int]:
    """The token before each token, on one cycle through all of them."""
    from random import Random

    order = list(range(size))
    Random(seed).shuffle(order)
    before = [0] * size
    for place, token in enumerate(order):
        before[token] = order[place - 1]
    return before
