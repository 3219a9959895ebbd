"""Greedy texts of an engine beside those of transformers' ``generate``, and their log-probs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from verifier.certificate_bench import Bench
from verifier.certificate_cases import Variant
from verifier.certificate_results import GenerateResult
from verifier.certificate_runs import Compared, Difference, Written
from verifier.request import SamplingParams, StopRules

_CASE = "transformers generate"


def compare_with_generate(folder: Path, bench: Bench, tokens: int) -> GenerateResult:
    """Hold the plain loop's greedy texts against those of transformers, prompt by prompt."""
    network = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    ).eval()
    network.generation_config = GenerationConfig(  # its own may end at once, or penalise
        max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    variants = [_variant(prompt, tokens) for prompt in bench.prompts]
    compared = [
        _compared(network, variant, written, bench.bound)
        for variant, written in zip(variants, bench.greedy(variants), strict=True)
    ]
    differences = [one.difference for one in compared]
    return GenerateResult(
        requests=len(compared),
        differences=tuple(one for one in differences if one is not None),
        deviation=max(one.deviation for one in compared),
    )


def _variant(prompt: tuple[int, ...], tokens: int) -> Variant:
    rules = StopRules(max_tokens=tokens, ignore_eos=True)
    return Variant(
        f"prompt of {len(prompt)} tokens", prompt, SamplingParams(temperature=0.0), rules
    )


@torch.inference_mode()
def _compared(network: Any, variant: Variant, written: Written, bound: float) -> Compared:
    """One text; its log-probs against a rescore of the whole by one forward."""
    prompt = torch.tensor([variant.prompt])
    out = network.generate(prompt, attention_mask=torch.ones_like(prompt))
    generated = out[0, prompt.shape[1] :].tolist()
    whole = torch.tensor([[*variant.prompt, *written.tokens]])
    scores = network(whole).logits[0, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
    own = scores[torch.arange(len(written.tokens)), torch.tensor(written.tokens)]
    deviation = float((own - torch.tensor(written.logprobs)).abs().max())
    pairs = zip(generated, written.tokens, strict=True)
    place = next((at for at, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        return Compared(None, deviation)
    margin = written.margins[place]
    return Compared(Difference(_CASE, variant.name, place, margin, margin < bound), deviation)
