"""What the loader takes, and what it refuses with a reason."""

from __future__ import annotations

import gc
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    T5Config,
)

import verifier.loading
from verifier.checkpoint import read_checkpoint
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


def test_an_adapter_is_refused_rather_than_left_out(copy: Path) -> None:
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ModelRefused, match="holds an adapter"):
        load_model(copy, name="m")


@pytest.mark.parametrize("config_class", [LlamaConfig, Gemma2Config])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_served_model_no_longer_reads_its_files(
    make_model: Any, tmp_path: Path, config_class: type[Any], dtype: Any
) -> None:
    """Who replaces them under a running engine neither changes its scores nor ends it."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux")
    folder = shutil.copytree(make_model(config_class, tie_word_embeddings=True), tmp_path / "m")
    weights = folder / "model.safetensors"
    load_file(weights)
    with safe_open(weights, framework="pt") as mapped:
        assert mapped.keys() and str(weights) in maps.read_text()
    model = load_model(folder, dtype=dtype, name="m")
    gc.collect()
    assert model.network.cache_shape.layers == 3 and str(weights) not in maps.read_text()


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


def test_weights_that_the_config_has_no_place_for_are_refused(copy: Path) -> None:
    edit_config(copy, num_hidden_layers=2)
    with pytest.raises(ModelRefused, match=r"no place for .*layers\.2\."):
        load_model(copy, name="m")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "1000000000 layers, but the weights have only"),
        ({"num_hidden_layers": 0}, "tells of 0 layers"),
        ({"vocab_size": 10**12}, "1000000000000 embeddings"),
        ({"vocab_size": 321}, "mismatch"),
        ({"hidden_size": 64}, "cannot be used"),
        ({"intermediate_size": 10**9}, "mismatch"),
        ({"num_hidden_layers": "three"}, "config .* cannot be used"),
        ({"num_attention_heads": 0}, "cannot be used"),
        ({"rope_parameters": "long"}, "cannot be used"),
        ({"max_position_embeddings": None}, "config .* cannot be used|max_position_embeddings"),
        ({"hidden_act": "magic"}, "cannot be used"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
)
def test_a_config_that_lies_is_refused_before_anything_large_is_built(
    copy: Path, lie: dict[str, Any], reason: str
) -> None:
    edit_config(copy, **lie)
    with pytest.raises(ModelRefused, match=reason):
        load_model(copy, name="m")


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"model_type": 7}'])
def test_a_config_that_is_none_is_refused(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(ModelRefused, match="config"):
        load_model(copy, name="m")


def test_a_generation_config_or_tokenizer_that_is_none_is_refused(copy: Path) -> None:
    (copy / "generation_config.json").write_text("{")
    with pytest.raises(ModelRefused, match=r"generation_config|cannot be used"):
        load_model(copy, name="m")
    (copy / "generation_config.json").unlink()
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match="tokenizer"):
        load_model(copy, name="m")


def _safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        b"\xff" * 64,
        _safetensors(b"{"),
        _safetensors(b"[]"),
        _safetensors(b"\xff\xfe"),
        _safetensors(b"[" * 100_000),
        _safetensors({"w": 3}),
        _safetensors({"w": {**ENTRY, "dtype": "F33"}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "dtype": ["F32"]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "shape": [True, 2]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "shape": [2**40, 2**40]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "shape": [1] * 9 + [2]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "shape": "2"}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8),
        _safetensors({"w": {**ENTRY, "data_offsets": [0]}}, b"\0" * 8),
        _safetensors({"w": ENTRY}, b"\0" * 7),
        _safetensors({"w": ENTRY}, b"\0" * 9),
    ],
)
def test_a_damaged_header_is_refused_and_never_crashes(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelRefused, match=r"model\.safetensors"):
        load_model(copy, name="m")


def test_a_truncated_file_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelRefused, match="truncated or corrupted"):
        load_model(copy, name="m")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=4))
def test_no_damage_to_a_header_gets_past_without_a_reason(
    llama_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "model.safetensors").write_bytes(
        llama_bytes[:at] + noise + llama_bytes[at + len(noise) :]
    )
    with suppress(ModelRefused):
        assert read_checkpoint(folder).elements < 10**9


@pytest.fixture(scope="session")
def llama_bytes(llama_path: Path) -> bytes:
    return (llama_path / "model.safetensors").read_bytes()


@pytest.fixture
def shards(llama_path: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(llama_path, tmp_path / "shards"))
    (folder / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    model.save_pretrained(folder, max_shard_size="80KB")
    return folder


def test_shards_are_put_together(llama: LoadedModel, shards: Path, drive: Any) -> None:
    assert len(list(shards.glob("*.safetensors"))) > 2
    request = drive.request((5, 6, 7), tokens=8)
    [outputs] = drive.run(drive.engine(load_model(shards, name="llama")), request)
    [expected] = drive.run(drive.engine(llama), request)
    assert drive.tokens(outputs) == drive.tokens(expected)


def test_a_shard_that_is_missing_or_lacks_a_tensor_is_refused(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    [first, *others] = sorted(set(places["weight_map"].values()))
    moved = next(key for key, file in places["weight_map"].items() if file != first)
    index.write_text(json.dumps({**places, "weight_map": {**places["weight_map"], moved: first}}))
    with pytest.raises(ModelRefused, match=f"{first} holds '{moved}', but it does not"):
        load_model(shards, name="m")
    index.write_text(json.dumps(places))
    (shards / others[0]).unlink()
    with pytest.raises(ModelRefused, match=f"names {others[0]}, which is not in"):
        load_model(shards, name="m")


@pytest.mark.parametrize(
    "weight_map", [None, [], {}, {"w": "../../etc/passwd"}, {"w": 3}, {"w": "weights.bin"}]
)
def test_an_index_that_points_elsewhere_is_refused(shards: Path, weight_map: Any) -> None:
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelRefused, match="index"):
        load_model(shards, name="m")


def test_tied_embeddings_need_no_head_of_their_own(make_model: Any) -> None:
    path = make_model(LlamaConfig, tie_word_embeddings=True)
    assert "lm_head.weight" not in read_checkpoint(path).shapes
    assert load_model(path, name="m").vocab_size == 320


def test_float16_is_refused_on_the_cpu(llama_path: Path) -> None:
    with pytest.raises(ModelRefused, match="float16' on the CPU"):
        load_model(llama_path, dtype="float16", name="m")


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
