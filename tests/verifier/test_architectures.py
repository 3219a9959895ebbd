"""Every architecture that is said to load writes what generate writes; the rest says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from drafting.source import Reference
from verifier.errors import ModelRefused
from verifier.loading import load_model
from verifier.request import Speculation

WINDOW = {"sliding_window": 9}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "first_k_dense_replace": 1,
}  # fmt: skip
PAGE = (Path(__file__).parents[2] / "docs/engine.md").read_text()
GPT2_SIZES = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 256, "n_inner": 96}
ALTERNATING = {
    "num_hidden_layers": 4, "head_dim": 16, **WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

LONG = {  # the second prompt stays short of the switch, the first passes it, the last lies beyond
    "pad_token_id": 0,
    "original_max_position_embeddings": 40,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40,
        "short_factor": [1.0] * 6, "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
    },
}  # fmt: skip

LEAN = {
    "Llama": {},
    "Mistral": WINDOW,
    "Qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "Qwen3": {"head_dim": 16},
}
THROUGH_ATTENTION = {
    "Llama, dynamic rotary": {"rope_parameters": DYNAMIC},  # changes beyond the context only
    "Gemma2": {**ALTERNATING, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0},
    "Gemma3Text": ALTERNATING,
    "GPTNeoX": {"rotary_pct": 0.5, "use_parallel_residual": True},
    "Phi3": {"pad_token_id": 0},
    "Phi3, long context": LONG,
    "Mixtral": EXPERTS,
    "GPT2": GPT2_SIZES,
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "Olmo2": {},
    "Cohere": {},
    "Granite": {"attention_multiplier": 0.2, "residual_multiplier": 0.7},
    "DeepseekV3": LATENT,  # keys wider than values
    "GptOss": {"head_dim": 16, **EXPERTS, **WINDOW},  # sinks
    "SmolLM3": {"pad_token_id": 0},
    "Phi": {"partial_rotary_factor": 0.5},
    "StableLm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True},
    "Starcoder2": WINDOW,
    "Gemma4Text": {  # layers that differ in the width of their keys
        **ALTERNATING, "global_head_dim": 24, "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
}  # fmt: skip
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PROBED = {
    "Apertus": {}, "Arcee": {}, "BioGpt": {}, "Cohere2": {**WINDOW, "head_dim": 16},
    "Cwm": {**WINDOW, "head_dim": 16}, "DeepseekV2": LATENT, "Ernie4_5": {}, "Exaone4": WINDOW,
    "Gemma": {"head_dim": 16}, "Glm": {"head_dim": 16}, "Glm4": {"head_dim": 16},
    "Gemma3nText": {
        **ALTERNATING, "intermediate_size": [96] * 4, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 4, "altup_num_inputs": 2,
    },
    "Glm4Moe": {"head_dim": 16, **ROUTED, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "GPTBigCode": GPT2_SIZES, "GraniteMoe": {"num_local_experts": 4}, "Helium": {"head_dim": 12},
    "HunYuanDenseV1": {"head_dim": 16}, "JetMoe": {"kv_channels": 12, "num_local_experts": 4},
    "Ministral": {**WINDOW, "head_dim": 16}, "ModernBertDecoder": {}, "NanoChat": {},
    "Nemotron": {}, "Olmo": {}, "Olmo3": WINDOW, "Olmoe": ROUTED,
    "Persimmon": {"num_key_value_heads": 4}, "Phimoe": {"num_local_experts": 4},
    "Qwen2Moe": {**ROUTED, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {**ROUTED, "head_dim": 16}, "SeedOss": {"head_dim": 16},
}  # fmt: skip
REFUSED = {
    "Bloom": ({"n_head": 4, "n_layer": 3}, "0 calls of the attention interface for 3 layers"),
    "Falcon": ({}, "0 calls of the attention interface"),
    "Llama4Text": (
        {"head_dim": 16, "attention_chunk_size": 8, "intermediate_size_mlp": 96,
         "num_local_experts": 2},
        "mask is not a sliding window of 8",
    ),
    "DiffLlama": ({}, "6 calls of the attention interface for 3 layers"),
    "Doge": ({}, "a mask of its own"),
    "MiniMax": ({"head_dim": 16, "num_local_experts": 4}, "2 calls .* for 3 layers"),
}  # fmt: skip
PROMPTS = [
    tuple(range(10, 40)),
    (5, 6, 7, 5, 6, 7, 5, 6),
    (9,),
    tuple((7 * n) % 300 + 3 for n in range(70)),
]
NEW_TOKENS = 16


def config_class(name: str) -> Any:
    return getattr(transformers, f"{name.partition(',')[0]}Config")


def generated(path: Path, prompts: Sequence[tuple[int, ...]] = PROMPTS) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.inference_mode():
        return [
            model.generate(
                torch.tensor([prompt]),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[0, len(prompt) :].tolist()
            for prompt in prompts
        ]


@pytest.mark.parametrize("name", [*LEAN, *THROUGH_ATTENTION])
def test_a_batch_of_unequal_requests_writes_what_generate_writes(
    make_model: Any, drive: Any, name: str
) -> None:
    changes = {**LEAN, **THROUGH_ATTENTION}[name]
    path = make_model(config_class(name), **changes)
    model = load_model(path, name="llama")
    assert model.path == ("lean" if name in LEAN else "attention")
    assert f"`{model.config.model_type.removesuffix('_text')}`" in PAGE
    wanted = generated(path)
    drafts = [(Reference("prediction", tuple(tokens)),) for tokens in wanted]
    engine = drive.engine(model, step_tokens=32)
    accepted = 0
    for speculation in (Speculation(mode="off"), Speculation(mode="fixed", max_nodes=6)):
        requests = [
            drive.request(
                prompt,
                name=str(at),
                speculation=speculation,
                tokens=NEW_TOKENS,
                references=drafts[at],
            )
            for at, prompt in enumerate(PROMPTS)
        ]
        for outputs, tokens in zip(drive.run(engine, *requests), wanted, strict=True):
            assert drive.tokens(outputs) == tokens
            accepted += outputs[-1].receipt.accepted
    assert accepted >= NEW_TOKENS  # the drafts were taken, not only looked at


@pytest.mark.parametrize("name", PROBED)
def test_the_probe_passes_what_the_page_says(make_model: Any, name: str) -> None:
    changes = {"bos_token_id": 1, "pad_token_id": 0, **PROBED[name]}
    model = load_model(make_model(config_class(name), **changes), name="m")
    assert model.path == "attention"
    assert f"`{model.config.model_type.removesuffix('_text')}`" in PAGE


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_compute_attention_our_way_is_refused_with_the_reason(
    make_model: Any, name: str
) -> None:
    changes, reason = REFUSED[name]
    path = make_model(config_class(name), **changes)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_model(path, name="m")
    assert "is not served" in str(refused.value)


def test_the_two_sides_of_a_rotary_switch_share_no_pages_and_disturb_nobody(
    make_model: Any, drive: Any
) -> None:
    """Texts on each side, alike for 36 tokens, alone, together and after one another."""
    path = make_model(config_class("Phi3"), **LONG)
    model = load_model(path, name="llama")
    assert (model.rotary_switch, model.max_model_len) == (40, 256)
    long = tuple((11 * n) % 300 + 3 for n in range(60))
    prompts = [long[:20], long, long[:38]]
    wanted = generated(path, prompts)
    for order in ([0], [1], [2], [0, 1, 2], [2, 1, 0]):
        engine = drive.engine(model, step_tokens=16, page_size=4)
        for _ in range(2):  # the second time its pages are known
            requests = [drive.request(prompts[at], name=str(at), tokens=16) for at in order]
            for at, outputs in zip(order, drive.run(engine, *requests), strict=True):
                assert drive.tokens(outputs) == wanted[at]
        stats = engine.stats().models["llama"]
        assert stats.prefix_hit_tokens > 0 and stats.preemptions == 0 and stats.pages_used == 0


def test_no_draft_reaches_over_a_rotary_switch(make_model: Any, drive: Any) -> None:
    """Three tokens before it, a right draft of fifteen is verified in parts."""
    path = make_model(config_class("Phi3"), **LONG)
    model = load_model(path, name="llama")
    prompt = tuple((11 * n) % 300 + 3 for n in range(37))
    [wanted] = generated(path, [prompt])
    request = drive.request(
        prompt,
        tokens=16,
        speculation=Speculation(mode="fixed", max_nodes=16, sources=frozenset({"prediction"})),
        references=(Reference("prediction", tuple(wanted)),),
    )
    [outputs] = drive.run(drive.engine(model), request)
    assert drive.tokens(outputs) == wanted
    ends = [37 + sum(len(one.tokens) for one in outputs[: at + 1]) for at in range(len(outputs))]
    assert 41 in ends  # three drafted, one of the model's own, and no draft beyond


@pytest.mark.parametrize(("target", "draft"), [("Llama", "GPTNeoX"), ("GPTNeoX", "Gemma2")])
def test_any_model_drafts_for_any_other_of_its_vocabulary(
    make_model: Any, drive: Any, target: str, draft: str
) -> None:
    changes = {**LEAN, **THROUGH_ATTENTION}
    path = make_model(config_class(target), **changes[target])
    models = [
        load_model(path, name="llama"),
        load_model(make_model(config_class(draft), **changes[draft]), name="small"),
    ]
    engine = drive.engine(*models, draft_models={"llama": "small"})
    speculation = Speculation(mode="fixed", max_nodes=6, sources=frozenset({"draft_model"}))
    requests = [
        drive.request(prompt, name=str(at), speculation=speculation, tokens=NEW_TOKENS)
        for at, prompt in enumerate(PROMPTS)
    ]
    for outputs, tokens in zip(drive.run(engine, *requests), generated(path), strict=True):
        assert drive.tokens(outputs) == tokens
        assert outputs[-1].receipt.drafted > 0
