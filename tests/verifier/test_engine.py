"""The engine against transformers, alone and in company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from verifier.engine import Engine, EngineConfig
from verifier.errors import ContextOverflow, QueueFull, RequestRefused
from verifier.loading import LoadedModel, load_model
from verifier.request import GenerationRequest, SamplingParams, Speculation, StepOutput, StopRules

FAMILY = [
    (LlamaConfig, {}),
    (MistralConfig, {"sliding_window": 9}),
    (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    (Qwen3Config, {"head_dim": 16}),
]
PROMPTS = [
    tuple(range(10, 40)),
    (5, 6, 7, 5, 6, 7, 5, 6),
    (9,),
    tuple((7 * n) % 300 + 3 for n in range(70)),
]


def wanted(
    prompt: tuple[int, ...],
    *,
    name: str = "r",
    tokens: int = 24,
    model: str = "llama",
    sampling: SamplingParams | None = None,
    speculate: bool = True,
    **more: Any,
) -> GenerationRequest:
    stops = more.pop("stops", None) or StopRules(max_tokens=tokens, ignore_eos=True)
    return GenerationRequest(
        request_id=name,
        model=model,
        prompt=prompt,
        sampling=sampling or SamplingParams(temperature=0.0),
        stops=stops,
        speculation=Speculation(mode="auto" if speculate else "off"),
        **more,
    )


def drain(engine: Engine) -> dict[str, list[StepOutput]]:
    found: dict[str, list[StepOutput]] = {}
    while engine.has_work():
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    return found


def tokens_of(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def generated(path: Path, prompt: tuple[int, ...], tokens: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("speculation", [False, True])
@pytest.mark.parametrize(("config_class", "changes"), FAMILY)
def test_greedy_tokens_equal_those_of_generate_for_a_batch(
    make_model: Any, config_class: type[Any], changes: dict[str, Any], speculation: bool
) -> None:
    path = make_model(config_class, **changes)
    engine = Engine(
        {"m": load_model(path, name="m")},
        EngineConfig(speculation=speculation, step_tokens=32),
    )
    for index, prompt in enumerate(PROMPTS):
        engine.submit(wanted(prompt, name=str(index), model="m"))
    found = drain(engine)
    for index, prompt in enumerate(PROMPTS):
        assert tokens_of(found[str(index)]) == generated(path, prompt, 24)
