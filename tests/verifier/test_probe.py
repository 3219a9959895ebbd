"""The probe passes what is right and refuses every way in which a network can be wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import verifier.attention_network
from kernels.tree_attention import Rows
from verifier.attention_network import AttentionNetwork
from verifier.errors import ModelRefused
from verifier.llama import LlamaNetwork
from verifier.loading import load_model
from verifier.packing import PackedLinear
from verifier.probe import EXACT, NARROW, check, make_case, narrowed, plain_forwards
from verifier.proven import proven_network
from verifier.rows import Ragged
from verifier.shortened import shortened
from verifier.upcast import upcast

GEMMA = {
    "head_dim": 16, "sliding_window": 4096, "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 2.0, "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture
def gemma(make_model: Any) -> Any:
    """Alternating windows far longer than any text of a test, and bent scores."""
    return _loaded(make_model(Gemma2Config, **GEMMA))


def _loaded(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")


def _difference(model: Any, spoil: Callable[[AttentionNetwork], None]) -> float:
    network = AttentionNetwork(model)
    with narrowed(model.config):
        model.set_attn_implementation("eager")
        reference = plain_forwards(model, make_case(320, 8192))
        model.set_attn_implementation(verifier.attention_network.NAME)
        spoil(network)
        return check(network, reference, torch.float32)


def test_a_right_network_passes_far_within_the_tolerance(gemma: Any) -> None:
    assert _difference(gemma, lambda network: None) < EXACT / 20


class _Spoilt:
    """Changes what a step of the attention network answers."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def calls(self, **changes: Any) -> None:
        """Every layer's call with ``changes``."""
        attend = verifier.attention_network._Step.attend

        def spoilt(step: Any, call: Any) -> Any:
            return attend(step, call._replace(**changes))

        self._patch.setattr(verifier.attention_network._Step, "attend", spoilt)

    def batch(self, change: Callable[[Ragged], Ragged]) -> None:
        """Every forward's batch, after ``change``."""
        forward = AttentionNetwork.forward

        def spoilt(network: Any, batch: Ragged, *more: Any) -> Any:
            return forward(network, change(batch), *more)

        self._patch.setattr(AttentionNetwork, "forward", spoilt)


def _counted_positions(batch: Ragged) -> Ragged:
    """Positions by index, as if a tree were a chain."""
    last = batch.requests[-1]
    first = int(batch.positions[-last.fresh])
    counted = torch.arange(first, first + last.fresh)
    return batch._replace(positions=torch.cat([batch.positions[: -last.fresh], counted]))


def _chained(batch: Ragged) -> Ragged:
    """Every node hangs from the one before: a branch sees its sibling."""
    rows = tuple(
        Rows(one.slot, one.context, range(-1, len(one.parents) - 1), one.fresh)
        for one in batch.requests
    )
    return batch._replace(requests=rows)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda by: by.calls(window=None), id="windows are ignored"),
        pytest.param(lambda by: by.calls(window=NARROW), id="a window in every layer"),
        pytest.param(lambda by: by.calls(window=NARROW + 1), id="windows one too long"),
        pytest.param(lambda by: by.calls(softcap=None), id="scores are not bent"),
        pytest.param(lambda by: by.calls(scale=16**-0.5), id="another scale"),
        pytest.param(lambda by: by.batch(_counted_positions), id="positions by index"),
        pytest.param(lambda by: by.batch(_chained), id="branches see each other"),
    ],
)
def test_a_wrong_network_is_refused(
    gemma: Any, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[_Spoilt], None]
) -> None:
    with pytest.raises(ModelRefused, match="other scores than plain forwards"):
        _difference(gemma, lambda _: spoil(_Spoilt(monkeypatch)))


def test_a_neighbour_that_changes_a_request_is_refused(
    gemma: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a maximum of positions over the whole batch would."""
    rotary = type(gemma.model.rotary_emb)
    forward = rotary.forward

    def by_the_longest(module: Any, x: Any, position_ids: Any) -> Any:
        stretch = 2.0 if int(position_ids.max()) > 4096 and x.shape[0] == 1 else 1.0
        return forward(module, x, position_ids / stretch)

    monkeypatch.setattr(rotary, "forward", by_the_longest)
    with pytest.raises(ModelRefused, match="other scores than plain forwards"):
        _difference(gemma, lambda network: None)


def test_scores_that_are_not_numbers_are_refused(make_model: Any) -> None:
    def load() -> Any:
        model = _loaded(make_model(LlamaConfig))
        model.model.layers[1].mlp.down_proj.weight.data[3, 5] = float("nan")
        return model

    with pytest.raises(ModelRefused, match="not finite"):
        proven_network(load, "m", 256)


def test_windows_are_narrow_only_while_the_probe_looks(gemma: Any) -> None:
    with narrowed(gemma.config) as window:
        assert (window, gemma.config.sliding_window) == (4096, NARROW)
    assert gemma.config.sliding_window == 4096
    proven = proven_network(lambda: gemma, "m", 8192)
    assert gemma.config.sliding_window == 4096
    assert proven.network.windows == {4096, None}  # type: ignore[attr-defined]


def test_the_lean_path_gets_its_window_back(make_model: Any) -> None:
    model = load_model(make_model(MistralConfig, sliding_window=77), name="m")
    assert model.path == "lean"
    assert model.network.windows == {77}  # type: ignore[attr-defined]


def test_a_lean_path_that_is_wrong_is_left_for_the_other_one(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take = LlamaNetwork.__init__

    def spoilt(network: LlamaNetwork, model: Any) -> None:
        take(network, model)
        network.frequencies = network.frequencies * 1.5

    monkeypatch.setattr(LlamaNetwork, "__init__", spoilt)
    path = make_model(LlamaConfig)
    with caplog.at_level(logging.INFO, logger="verifier"):
        model = load_model(path, name="mine")
    assert model.path == "attention"
    assert "mine leaves the lean path" in caplog.text
    assert "runs on the attention path" in caplog.text
    for dtype in ("float32", "bfloat16"):  # rounding hides nothing
        assert load_model(path, name="m", dtype=dtype).path == "attention"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_laid_out_for_speed_are_looked_at_once_more(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dtype: Any
) -> None:
    path = make_model(Gemma2Config, head_dim=16)

    def kinds() -> set[type[Any]]:
        model = load_model(path, dtype=dtype, name="mine").network._model  # type: ignore[attr-defined]
        return {type(module) for module in model.modules()}

    assert PackedLinear in kinds() and torch.nn.Linear not in kinds()
    forward = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda layer, x: forward(layer, x).roll(1, -1))
    assert torch.nn.Linear in kinds() and PackedLinear not in kinds()
    assert "mine keeps its linear layers as they are" in caplog.text


@pytest.mark.parametrize("config_class", [Qwen3Config, Gemma2Config])
def test_half_precision_is_probed_in_float32_without_a_second_copy(
    make_model: Any, config_class: type[Any]
) -> None:
    path = make_model(config_class, head_dim=16)
    model = _loaded(path, torch.bfloat16)
    weights = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    tokens = torch.tensor([[5, 6, 7]])
    with upcast(model), torch.inference_mode():
        high = model(tokens).logits
    assert high.dtype == torch.float32
    assert model(tokens).logits.dtype == torch.bfloat16
    assert weights == {name: weight.data_ptr() for name, weight in model.named_parameters()}
    wide = _loaded(path, torch.bfloat16).float()
    with torch.inference_mode():
        exact = wide(tokens).logits
    assert float((high - exact).abs().max() / exact.std()) < 0.1  # the embedding is rounded


def test_a_short_copy_has_every_kind_of_layer_and_few_tokens(make_model: Any) -> None:
    changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    model = _loaded(make_model(Qwen2Config, **changes), torch.bfloat16)
    short = shortened(model)
    assert short.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    assert short.dtype == torch.float32
    kept = short.model.layers[2].self_attn.q_proj.weight
    assert torch.equal(kept, model.model.layers[2].self_attn.q_proj.weight.float())
    assert model.config.num_hidden_layers == 3
