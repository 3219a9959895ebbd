"""Tree attention against float64, row by row, over random ragged batches."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.errors import KernelError
from kernels.tree_attention import Rows, _reference, plan_attention, tree_attention


@st.composite
def batches(draw: st.DrawFn) -> list[Rows]:
    requests = []
    gaps = draw(st.lists(st.integers(1, 2), min_size=1, max_size=5))
    for slot in accumulate(gaps):
        chain = draw(st.integers(1, 6))
        nodes = draw(st.integers(0, 9))
        tree = [draw(st.integers(chain - 1, index - 1)) for index in range(chain, chain + nodes)]
        parents = [*range(-1, chain - 1), *tree]
        fresh = draw(st.integers(1, len(parents)))
        requests.append(Rows(slot, draw(st.sampled_from([0, 1, 15, 16, 40])), parents, fresh))
    return requests


def tensors(
    requests: list[Rows], seed: int, groups: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(request.fresh for request in requests)
    q = torch.randn((rows, 2 * groups, 8), generator=generator)
    kv = torch.randn((11, 64, 4, 8), generator=generator)
    return q.to(dtype), kv.to(dtype)


@settings(deadline=None, max_examples=150)
@given(batches(), st.integers(0, 9), st.sampled_from([1, 2, 3]), st.sampled_from([None, 1, 5, 17]))
def test_it_agrees_with_float64_on_random_ragged_trees(
    requests: list[Rows], seed: int, groups: int, window: int | None
) -> None:
    q, kv = tensors(requests, seed, groups)
    plan = plan_attention(requests, groups=groups, dtype=q.dtype, window=window)
    expected = _reference(q, kv, requests, window=window)
    torch.testing.assert_close(tree_attention(q, kv, plan).double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    batches(),
    st.integers(0, 9),
    st.sampled_from([None, 1.5]),
    st.booleans(),
    st.sampled_from([1, 3]),
)
def test_bent_scores_and_sinks_agree_with_float64(
    requests: list[Rows], seed: int, softcap: float | None, sinking: bool, groups: int
) -> None:
    q, kv = tensors(requests, seed, groups)
    sinks = torch.linspace(-1, 2, q.shape[1]) if sinking else None
    plan = plan_attention(requests, groups=groups, dtype=q.dtype)
    expected = _reference(q, kv, requests, scale=0.7, softcap=softcap, sinks=sinks)
    found = tree_attention(q, kv, plan, scale=0.7, softcap=softcap, sinks=sinks)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(batches(), st.integers(0, 9))
def test_bfloat16_stays_within_its_own_rounding(requests: list[Rows], seed: int) -> None:
    q, kv = tensors(requests, seed, 2, torch.bfloat16)
    plan = plan_attention(requests, groups=2, dtype=q.dtype)
    expected = _reference(q, kv, requests)
    torch.testing.assert_close(tree_attention(q, kv, plan).double(), expected, rtol=2e-2, atol=2e-2)


@settings(deadline=None, max_examples=60)
@given(batches(), st.integers(0, 9), st.data())
def test_what_a_row_may_not_see_cannot_change_it(
    requests: list[Rows], seed: int, data: st.DataObject
) -> None:
    """Not another request, not a sibling, not the rest of the slot: bit for bit."""
    q, kv = tensors(requests, seed, 2)
    plan = plan_attention(requests, groups=2, dtype=q.dtype)
    before = tree_attention(q, kv, plan)
    place = data.draw(st.integers(0, len(requests) - 1))
    request = requests[place]
    row = len(request.parents) - data.draw(st.integers(1, request.fresh))
    path, node = {row}, row
    while (node := request.parents[node]) >= 0:
        path.add(node)
    seen = [*range(request.context), *(request.context + node for node in path)]
    changed = torch.randn_like(kv)
    changed[request.slot, seen] = kv[request.slot, seen]
    first = sum(other.fresh for other in requests[:place])
    at = first + row - (len(request.parents) - request.fresh)
    assert torch.equal(tree_attention(q, changed, plan)[at], before[at])


def test_a_scale_of_its_own_is_used() -> None:
    requests = [Rows(0, 3, [-1], 1)]
    q, kv = tensors(requests, 1, 2)
    plan = plan_attention(requests, groups=2, dtype=q.dtype)
    expected = _reference(q, kv, requests, scale=0.5)
    torch.testing.assert_close(tree_attention(q, kv, plan, scale=0.5).double(), expected)


def test_many_decoding_slots_become_one_call_and_a_long_prompt_stays_apart() -> None:
    decoding = [Rows(slot, 30 + slot, [-1], 1) for slot in range(4)]
    prompt = Rows(4, 0, range(-1, 199), 200)
    plan = plan_attention([*decoding, prompt], groups=2, dtype=torch.float32)
    assert [segment.slots for segment in plan.segments] == [4, 1]


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [Rows(1, 0, [-1], 1), Rows(0, 0, [-1], 1)],
        [Rows(0, 0, [-1], 1), Rows(0, 0, [-1], 1)],
        [Rows(0, 0, [-1, 1], 1)],
        [Rows(0, 0, [-1], 2)],
        [Rows(0, 0, [-1], 0)],
        [Rows(0, -1, [-1], 1)],
    ],
)
def test_rows_that_make_no_sense_are_refused(requests: list[Rows]) -> None:
    with pytest.raises(KernelError, match="expected"):
        plan_attention(requests, groups=1, dtype=torch.float32)


@pytest.mark.parametrize(
    ("q_shape", "kv_shape", "kv_dtype"),
    [
        ((1, 4, 8), (1, 9, 4, 16), torch.float32),
        ((1, 4, 8), (9, 4, 8), torch.float32),
        ((1, 4, 8), (1, 9, 4, 8), torch.bfloat16),
        ((1, 3, 8), (1, 9, 4, 8), torch.float32),
        ((2, 4, 8), (1, 9, 4, 8), torch.float32),
    ],
)
def test_tensors_that_disagree_are_refused(
    q_shape: tuple[int, ...], kv_shape: tuple[int, ...], kv_dtype: torch.dtype
) -> None:
    plan = plan_attention([Rows(0, 0, [-1], 1)], groups=2, dtype=torch.float32)
    with pytest.raises(KernelError, match="expected"):
        tree_attention(torch.zeros(q_shape), torch.zeros(kv_shape, dtype=kv_dtype), plan)
