"""Weights in eight bits: what they cost in accuracy, and that drafts change nothing beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

from drafting.source import Reference
from kernels.tree_attention import Rows
from verifier.errors import ModelRefused
from verifier.int8 import Int8Linear, quantize
from verifier.loading import LoadedModel, load_model
from verifier.margin import NARROW_BFLOAT16
from verifier.request import Speculation
from verifier.rows import ContextRows, ragged

CREEK = Path(__file__).parents[2] / "demo" / "ladder" / "creek"
PROMPTS = [tuple(range(10, 40)), (5, 6, 7, 5, 6, 7), tuple((7 * n) % 300 + 3 for n in range(70))]


def _layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(96, 64, bias=bias).to(torch.bfloat16)


@pytest.mark.parametrize("rows", [1, 4, 5, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_with_weights_half_a_level_off_at_most(rows: int, bias: bool) -> None:
    plain = _layer(bias)
    layer = Int8Linear(plain)
    off = (layer.weight.float() - plain.weight.float()).abs()
    level = plain.weight.float().abs().amax(dim=1, keepdim=True) / 127
    assert bool((off <= 0.5 * level + 0.01 * plain.weight.abs()).all())
    x = torch.randn(1, rows, 96).to(torch.bfloat16)
    exact = x.float() @ layer.weight.float().T + (plain.bias.float() if bias else 0)
    torch.testing.assert_close(layer(x).float(), exact.detach(), rtol=2e-2, atol=2e-2)
    assert layer(x).dtype == torch.bfloat16


def test_a_layer_of_zeros_stays_one() -> None:
    plain = _layer()
    plain.weight.data.zero_()
    assert torch.equal(Int8Linear(plain)(torch.ones(2, 96).bfloat16()), plain.bias.expand(2, -1))


def test_embeddings_and_head_are_left_alone(make_model: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(LlamaConfig), dtype=torch.bfloat16)
    assert quantize(model) == 3 * 7
    assert type(model.lm_head) is nn.Linear
    assert isinstance(model.model.layers[0].mlp.down_proj, Int8Linear)


@pytest.mark.parametrize("config_class", [LlamaConfig, GPTNeoXConfig])
def test_drafts_change_nothing_but_narrow_decisions(
    make_model: Any, drive: Any, config_class: type[Any]
) -> None:
    model = load_model(make_model(config_class), dtype="int8", name="llama")
    assert (model.path, model.dtype) == ("attention", torch.bfloat16)
    engine = drive.engine(model)
    plain = [drive.run(engine, drive.request(one, speculate=False))[0] for one in PROMPTS]
    requests = [
        drive.request(
            prompt,
            name=str(at),
            speculation=Speculation(mode="fixed", max_nodes=6),
            references=(Reference("prediction", tuple(drive.tokens(plain[at]))),),
        )
        for at, prompt in enumerate(PROMPTS)
    ]
    for one, other in zip(plain, drive.run(engine, *requests), strict=True):
        pairs = zip(drive.tokens(one), drive.tokens(other), strict=True)
        split = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
        margins = [margin for output in one for margin in output.margins]
        assert split is None or margins[split] < NARROW_BFLOAT16


def _scores(model: LoadedModel) -> torch.Tensor:
    tokens = model.encode("Spell backwards: river. Count from 5 to 95 in steps of 5: 5 10 15 20 25")
    cache = ContextRows(model.network.cache_shape)
    cache.ensure(1, len(tokens))
    rows = Rows(0, 0, range(-1, len(tokens) - 1), len(tokens))
    return model.network.forward(ragged([rows], [tokens], cache.capacity), cache).log_softmax(-1)


def test_a_trained_model_stays_close_to_itself() -> None:
    exact, rounded = (
        _scores(load_model(CREEK, dtype=one, name="m")) for one in ("float32", "int8")
    )
    divergence = (exact.exp() * (exact - rounded)).sum(-1)
    assert 1e-6 < float(divergence.mean()) < 0.02


def test_it_is_another_model_to_every_cache(llama: LoadedModel, llama_path: Path) -> None:
    prints = {
        load_model(llama_path, dtype=one, name="m").fingerprint for one in ("bfloat16", "int8")
    }
    assert len(prints | {llama.fingerprint}) == 3


def test_it_is_refused_on_a_gpu_and_where_there_is_nothing_to_gain(
    llama_path: Path, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 256, "n_inner": 96}
    with pytest.raises(ModelRefused, match="no linear layers"):
        load_model(make_model(GPT2Config, **sizes), dtype="int8", name="m")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelRefused, match="'int8' on a GPU"):
        load_model(llama_path, dtype="int8", device="cuda", name="m")
