"""What a model will take is known before it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    Gemma2Config,
    Gemma4TextConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
)

import verifier.prediction
from verifier.engine import EngineConfig
from verifier.errors import ModelRefused
from verifier.loading import load_model
from verifier.memory import free_bytes
from verifier.prediction import HEADROOM, Needs, Planned, check_fits, check_free, predict

CPU = torch.device("cpu")
LIMITS = EngineConfig(cache_bytes=2**20, max_running=4, max_nodes=8)
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "first_k_dense_replace": 1,
}  # fmt: skip
GEMMA4 = {  # layers that differ
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "head_dim": 16, "global_head_dim": 24, "sliding_window": 9, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
}  # fmt: skip
MODELS = [
    (LlamaConfig, {}),
    (LlamaConfig, {"tie_word_embeddings": True}),
    (Gemma2Config, {"head_dim": 16}),
    (
        GPT2Config,
        {
            "n_embd": 48,
            "n_head": 4,
            "n_layer": 3,
            "n_positions": 256,
            "n_inner": 96,
            "num_key_value_heads": 4,
        },
    ),
    (MixtralConfig, {"num_local_experts": 4}),
    (Gemma4TextConfig, GEMMA4),
    (DeepseekV3Config, LATENT),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("config_class", "changes"), MODELS)
def test_the_prediction_agrees_with_the_loaded_model(
    make_model: Any, config_class: type[Any], changes: dict[str, Any], dtype: Any
) -> None:
    path = make_model(config_class, **changes)
    needs = predict(Planned("m", path, dtype), LIMITS, CPU)
    model = load_model(path, dtype=dtype, name="m")
    shape = model.network.cache_shape
    page = LIMITS.page_size * shape.bytes_per_token
    assert needs.pages == max(2**20 // page, -(-model.max_model_len // LIMITS.page_size)) * page
    assert needs.scores == 4 * 9 * model.vocab_size * 4
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    tied = model.vocab_size * 48 * shape.dtype.itemsize if model.config.tie_word_embeddings else 0
    expected = stored * shape.dtype.itemsize / 4 + tied
    assert needs.weights == pytest.approx(expected, rel=0.05)  # the header is not weights


def _needs(**changes: int) -> Needs:
    sizes = {"weights": 100, "pages": 20, "contexts": 10, "scores": 5, "loading": 25}
    return Needs(name="m", **{part: size * 2**20 for part, size in {**sizes, **changes}.items()})


def test_models_fit_to_the_last_byte_and_no_further() -> None:
    """Loading's buffers are needed once, for they are free again before the next model."""
    both = [_needs(), _needs(loading=40)]
    enough = 2 * 135 * 2**20 + 40 * 2**20 + HEADROOM
    check_free(both, enough)
    check_free(both, None)
    with pytest.raises(ModelRefused):
        check_free(both, enough - 1)


def test_the_refusal_gives_every_number() -> None:
    with pytest.raises(ModelRefused) as refused:
        check_free([_needs()], 50 * 2**20)
    for part in (
        "about 288 MiB are needed, but only 50 MiB are free",
        "'m' 135 MiB (100 of weights, 20 of pages, 10 of contexts, 0 of drafts, 5 of scores)",
        "25 MiB while loading",
        "128 MiB of headroom",
    ):
        assert part in str(refused.value)


def test_a_draft_model_counts_and_nothing_is_loaded(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model(LlamaConfig)
    alone = check_fits([Planned("target", path, "float32")], LIMITS, "cpu")
    free = sum(one.lasting + one.loading for one in alone) + HEADROOM
    monkeypatch.setattr(verifier.prediction, "free_device_bytes", lambda device: free)
    monkeypatch.setattr(verifier.loading, "_weights", lambda *_: pytest.fail("loaded"))
    check_fits([Planned("target", path, "float32")], LIMITS, "cpu")
    with pytest.raises(ModelRefused, match=r"'target' .*; 'draft' "):
        check_fits(
            [Planned("target", path, "float32"), Planned("draft", path, "float32")], LIMITS, "cpu"
        )


def test_whoever_drafts_keeps_contexts_of_its_own_for_every_target(make_model: Any) -> None:
    large, small = make_model(LlamaConfig), make_model(LlamaConfig, num_hidden_layers=1)
    planned = [
        Planned("creek", large, "float32"),
        Planned("river", large, "float32"),
        Planned("brook", small, "float32"),
    ]
    drawn = replace(LIMITS, draft_models={"creek": "brook", "river": "brook"})
    creek, river, brook = check_fits(planned, drawn, "cpu")
    alone = check_fits(planned, LIMITS, "cpu")
    assert creek.drafts == river.drafts == creek.contexts // 3, "one layer of three"
    assert brook.drafts == 0 == alone[0].drafts
    assert creek.lasting == alone[0].lasting + creek.drafts
    assert "of drafts" in str(creek)
    exits = replace(LIMITS, exit_layers={"river": 2})
    assert check_fits(planned, exits, "cpu")[1].drafts == 2 * creek.contexts // 3
    for off in ({"speculation": False}, {"sources": ("prompt_lookup",)}):
        limits = replace(drawn, exit_layers={"river": 2}, **off)
        assert [one.drafts for one in check_fits(planned, limits, "cpu")] == [0, 0, 0]


def test_the_cache_is_part_of_it(make_model: Any) -> None:
    planned = Planned("m", make_model(LlamaConfig), "float32")
    small, large = (
        predict(planned, EngineConfig(cache_bytes=size), CPU) for size in (2**20, 2**30)
    )
    assert large.pages > 500 * small.pages
    assert predict(planned, EngineConfig(pages=3), CPU).pages == 3 * 16 * 3 * 2 * 2 * 12 * 4


def test_a_missing_model_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no directory"):
        check_fits([Planned("m", tmp_path / "nowhere", "float32")], LIMITS, "cpu")


def test_this_machine_says_how_much_is_free() -> None:
    free = free_bytes()
    assert free is None or 2**20 < free < 2**50
