"""What travels between replicas arrives as it was written, or is lost: nothing else."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.relayed import Batch, Lost
from gateway.generation import AnswerEvent, Delta, Finished, Started, Usage
from gateway.store.sealed import Seal

SEAL = Seal(b"s" * 32)
EVENTS: tuple[AnswerEvent, ...] = (
    Started(tier="river", policy_version=3, cache_status="spillway; fwd=uri-miss"),
    Delta(choice=1, text="wörld\u2028", logprobs=({"token": "w", "top_logprobs": []},)),
    Delta(finish_reason="stop"),
    Finished(usage=Usage(prompt_tokens=3), fingerprint="fp", receipt={"tiers": [{"ms": 1.5}]}),
)


@pytest.mark.parametrize("kind", ["more", "done", "over"])
def test_events_arrive_as_they_were(kind: str) -> None:
    batch = Batch(kind, EVENTS)  # type: ignore[arg-type]
    assert Batch.decode(batch.encode()) == batch


def test_ten_thousand_mutated_entries_are_lost() -> None:
    dice = random.Random(31)
    whole = SEAL.close("stream:1", Batch("more", EVENTS).encode())
    for _ in range(10_000):
        value = bytearray(whole)
        kind = dice.randrange(3)
        if kind == 0:
            value[dice.randrange(len(value))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del value[dice.randrange(len(value)) :]
        else:
            value = bytearray(dice.randbytes(dice.randrange(400)))
        with pytest.raises(Lost):
            Batch.decode(SEAL.open("stream:1", bytes(value)))
    with pytest.raises(Lost):
        Batch.decode(SEAL.open("stream:2", whole))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(anything)
def test_whatever_json_was_sealed_is_a_batch_or_lost(value: object) -> None:
    for payload in (value, ["more", value], ["more", [[1, value]]], ["more", [[value, {}]]]):
        try:
            Batch.decode(json.dumps(payload).encode())
        except Lost:
            continue
