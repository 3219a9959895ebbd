"""The files that ship: every model loads as it is, and the README says what was measured."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from demo.results import BEGIN, END, table
from demo.tasks import FAMILIES, generate

DEMO = Path(__file__).parents[2] / "demo"
LADDER = DEMO / "ladder"
NAMES = ("brook", "creek", "river")
TOKENIZER = AutoTokenizer.from_pretrained(LADDER / "river")


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    if not any(special in text for special in TOKENIZER.all_special_tokens):
        assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    assert TOKENIZER.tokenize("1234567890") == list("1234567890")


def test_the_tokenizer_is_small_and_has_what_a_chat_needs() -> None:
    assert 1000 <= len(TOKENIZER) <= 4000
    assert None not in (TOKENIZER.bos_token, TOKENIZER.eos_token, TOKENIZER.pad_token)
    assert TOKENIZER.model_max_length == 2048


def test_a_chat_with_a_system_message_and_turns_is_rendered_in_order() -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
    text = TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|begin|><|system|>Be brief.<|end|><|user|>one<|end|>"
        "<|assistant|>two<|end|><|user|>three<|end|><|assistant|>"
    )


def test_all_models_share_one_tokenizer() -> None:
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for file in files:
        assert len({(LADDER / name / file).read_bytes() for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_model_loads_as_it_is(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(LADDER / name)
    config = model.config
    assert isinstance(model, LlamaForCausalLM)
    assert config.max_position_embeddings == 2048
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.vocab_size == len(TOKENIZER)
    assert model.generation_config.eos_token_id == TOKENIZER.eos_token_id


def test_the_models_grow_and_fit_in_forty_megabytes() -> None:
    sizes = [(LADDER / name / "model.safetensors").stat().st_size for name in NAMES]
    assert sizes == sorted(sizes)
    assert sum(sizes) < 40e6


def test_river_answers_easy_prompts_right() -> None:
    model = AutoModelForCausalLM.from_pretrained(LADDER / "river", dtype="float32")
    tasks = [task for task in generate("test", 3, 300) if task.family == "copy"][:8]
    right = 0
    for task in tasks:
        chat = [{"role": "user", "content": task.prompt}]
        inputs = TOKENIZER.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
        right += TOKENIZER.decode(output, skip_special_tokens=True).strip() == task.answer
    assert right >= 6


def test_the_readme_shows_the_results_file() -> None:
    text = (DEMO / "README.md").read_text()
    results = json.loads((DEMO / "results.json").read_text())
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert shown == table(results)


def test_the_ladder_is_a_ladder() -> None:
    models = json.loads((DEMO / "results.json").read_text())["models"]
    overall = [models[name]["right"]["overall"] for name in NAMES]
    assert overall == sorted(overall)
    families = {family.name for family in FAMILIES}
    assert all(set(models[name]["right"]) == families | {"overall"} for name in NAMES)
