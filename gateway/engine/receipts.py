"""What decoding cost: the engine's receipts as usage and as the response's `spillway` key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gateway.generation import Json, Usage
from verifier.request import DecodeReceipt

_ADDED = (
    "output_tokens",
    "steps",
    "drafted",
    "accepted",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
    "narrow_margins",
)
_LONGEST = ("queue_ms", "prefill_ms", "decode_ms", "draft_ms")


def usage_of(receipts: Sequence[DecodeReceipt], choices: int) -> Usage:
    """OpenAI's counts: a prompt counts once, whatever the number of its choices."""
    first_of_prompts = receipts[::choices]
    return Usage(
        prompt_tokens=sum(one.prompt_tokens for one in first_of_prompts),
        completion_tokens=sum(one.output_tokens for one in receipts),
        cached_tokens=sum(one.cached_prompt_tokens for one in first_of_prompts),
        accepted_prediction_tokens=sum(one.accepted_prediction_tokens for one in receipts),
        rejected_prediction_tokens=sum(one.rejected_prediction_tokens for one in receipts),
    )


def receipt_json(receipts: Sequence[DecodeReceipt], choices: int) -> Mapping[str, Json]:
    """One receipt as it is; several as their sum (times: the longest) with each under `choices`."""
    each = [asdict(one) for one in receipts]
    if len(each) == 1:
        return each[0]
    usage = usage_of(receipts, choices)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_prompt_tokens": usage.cached_tokens,
        **{key: sum(one[key] for one in each) for key in _ADDED},
        **{key: max(one[key] for one in each) for key in _LONGEST},
        "by_source": _by_source(receipts),
        "seed": each[0]["seed"],
        "choices": each,
    }


def _by_source(receipts: Sequence[DecodeReceipt]) -> dict[str, dict[str, int]]:
    names = sorted({name for one in receipts for name in one.by_source})
    counts = {
        name: [one.by_source[name] for one in receipts if name in one.by_source] for name in names
    }
    return {
        name: {
            "proposed": sum(one.proposed for one in found),
            "accepted": sum(one.accepted for one in found),
        }
        for name, found in counts.items()
    }
