"""Writes trained weights as a directory that transformers loads as it is."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from demo.recipe import CONTEXT, NORM_EPSILON, ROPE_THETA
from demo.transformer import Transformer


def export(model: Transformer, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, weights (bfloat16), generation config and tokenizer into `folder`."""
    llama = LlamaForCausalLM(_config(model, tokenizer)).bfloat16()
    llama.load_state_dict(_state(model))
    llama.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=512,
        do_sample=False,
    )
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(model: Transformer, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    r = model.recipe
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=r.width,
        intermediate_size=r.inner,
        num_hidden_layers=r.layers,
        num_attention_heads=r.heads,
        num_key_value_heads=r.kv_heads,
        head_dim=r.head_size,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=NORM_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _state(model: Transformer) -> dict[str, Tensor]:
    r = model.recipe
    grouped = r.kv_heads * r.head_size
    state = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.final_norm,
        "lm_head.weight": model.head,
    }
    for place, layer in enumerate(model.layers):
        query, key, value = torch.split(layer.qkv, [r.heads * r.head_size, grouped, grouped])
        gate, up = layer.gate_up.chunk(2)
        named = {
            "input_layernorm": layer.attention_norm,
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": layer.attention_out,
            "post_attention_layernorm": layer.inner_norm,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down,
        }
        state |= {f"model.layers.{place}.{name}.weight": w for name, w in named.items()}
    return {name: weight.detach() for name, weight in state.items()}
