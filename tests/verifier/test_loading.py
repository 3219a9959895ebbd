"""What the loader takes, and what it refuses with a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    T5Config,
)

import verifier.loading
from verifier.engine import Engine, EngineConfig
from verifier.errors import ModelRefused, RequestRefused
from verifier.loading import LoadedModel, load_model


@pytest.fixture
def copy(llama_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_path, tmp_path / "copy"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_model_knows_its_limits(llama: LoadedModel) -> None:
    assert (llama.max_model_len, llama.vocab_size) == (256, 320)
    assert llama.eos_token_ids == {2}
    assert len(llama.weights_digest) == 32
    assert len(llama.fingerprint) == 64


def test_a_conversation_is_rendered_as_transformers_does(
    llama: LoadedModel, llama_path: Path
) -> None:
    messages = [{"role": "user", "content": "Sort the words: pear, fig."}]
    expected = AutoTokenizer.from_pretrained(llama_path).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(llama.render_chat(messages)) == expected


def test_a_template_that_refuses_is_the_requests_fault(copy: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(RequestRefused, match="roles must alternate") as refused:
        load_model(copy, name="m").render_chat([{"role": "user", "content": "hi"}])
    assert refused.value.param == "messages"


def test_the_fingerprint_changes_with_anything_that_changes_answers(
    llama: LoadedModel, llama_path: Path, copy: Path
) -> None:
    assert load_model(copy, name="other").fingerprint == llama.fingerprint
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    changed = load_model(copy, name="m")
    assert changed.fingerprint != llama.fingerprint
    assert changed.weights_digest == llama.weights_digest
    assert load_model(llama_path, name="m", dtype="bfloat16").fingerprint != llama.fingerprint


def test_pickled_weights_are_refused_unread(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelRefused, match=r"pickled.*pytorch_model\.bin"):
        load_model(copy, name="m")


def test_a_folder_without_weights_and_one_that_is_not_there_are_refused(
    copy: Path, tmp_path: Path
) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelRefused, match="no weights"):
        load_model(copy, name="m")
    with pytest.raises(ModelRefused, match="no directory"):
        load_model(tmp_path / "nowhere", name="m")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "encoder-decoder"),
        (MambaConfig(), "recurrent state"),
    ],
)
def test_an_architecture_that_cannot_be_served_is_refused_with_the_reason(
    copy: Path, config: Any, reason: str
) -> None:
    config.save_pretrained(copy)
    with pytest.raises(ModelRefused, match=reason):
        load_model(copy, name="m")


def test_an_unknown_architecture_with_code_of_its_own_is_refused(copy: Path) -> None:
    (copy / "modeling_evil.py").write_text("raise SystemExit('remote code ran')")
    edit_config(copy, model_type="evil", auto_map={"AutoConfig": "modeling_evil.EvilConfig"})
    with pytest.raises(ModelRefused, match="config"):
        load_model(copy, name="m")


def test_missing_weights_are_refused_rather_than_made_up(copy: Path) -> None:
    edit_config(copy, num_hidden_layers=4)
    with pytest.raises(ModelRefused, match="missing_keys"):
        load_model(copy, name="m")


def test_a_file_that_is_no_safetensors_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelRefused, match="no safetensors"):
        load_model(copy, name="m")


def test_a_device_that_is_not_there_or_not_known_is_refused(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelRefused, match="'cuda', but PyTorch finds none"):
        load_model(llama_path, device="cuda", name="m")
    with pytest.raises(ModelRefused, match="'tpu'; expected cpu, cuda or auto"):
        load_model(llama_path, device="tpu", name="m")  # type: ignore[arg-type]


def test_auto_is_the_cpu_where_there_is_nothing_else(
    llama: LoadedModel, llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = load_model(llama_path, device="auto", name="m")
    assert model.network.device.type == "cpu"
    assert model.fingerprint == llama.fingerprint


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier.loading, "free_bytes", lambda: 100_000)
    with pytest.raises(ModelRefused, match=r"needs about .* MiB"):
        load_model(llama_path, name="m")


def test_an_unknown_dtype_is_refused(llama_path: Path) -> None:
    with pytest.raises(ModelRefused, match="float8"):
        load_model(llama_path, dtype="float8", name="m")  # type: ignore[arg-type]


def test_a_draft_model_must_share_the_vocabulary(
    llama: LoadedModel, make_model: Any, copy: Path
) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    stranger = load_model(copy, name="stranger")
    with pytest.raises(ModelRefused, match="vocabularies differ"):
        Engine(
            {"llama": llama, "stranger": stranger},
            EngineConfig(draft_models={"llama": "stranger"}),
        )


@pytest.mark.parametrize(
    ("config_class", "changes"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        (LlamaConfig, {"tie_word_embeddings": True, "hidden_act": "gelu"}),
        (MistralConfig, {"sliding_window": 5, "head_dim": 8}),
        (
            LlamaConfig,
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
    ],
)
def test_bfloat16_decodes_close_to_transformers(
    make_model: Any, drive: Any, config_class: type[Any], changes: dict[str, Any]
) -> None:
    """Not equal tokens, which rounding may change, but log-probs near those of float32."""
    path = make_model(config_class, **changes)
    exact, rounded = (
        load_model(path, name="llama", dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    request = drive.request(tuple(range(5, 60)), tokens=1, top_logprobs=20)
    [[low]], [[high]] = (
        drive.run(drive.engine(model, speculation=False), request) for model in (rounded, exact)
    )
    near = dict(low.logprobs[0].top)
    both = [(value, near[token]) for token, value in high.logprobs[0].top if token in near]
    assert len(both) >= 10
    assert max(abs(a - b) for a, b in both) < 0.5
    assert rounded.network.embedding.dtype is torch.bfloat16
