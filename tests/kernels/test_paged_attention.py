"""Paged attention against float64, and everything that must not be able to change it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.kernels.cases import Case, Shape, random_case, random_tree, tree_tables
from kernels.errors import KernelError
from kernels.paged_attention import _reference, paged_attention
from kernels.paged_plan import PagedPlan, Room, plan_paged_attention, refill
from kernels.paged_torch import attend_with_torch
from kernels.tiles import Tile, tile_for
from kernels.tree_attention import Rows

RANDOM = np.random.default_rng(7)
CHAIN = list(range(-1, 19))
TREE = random_tree(RANDOM, 9, chain=2)
DECODING = [Rows(0, 0, [-1], 1), Rows(2, 1, [-1], 1), Rows(1, 65, [-1], 1)]
MIXED = [Rows(0, 63, TREE, 9), Rows(1, 64, [-1], 1), Rows(3, 70, CHAIN, 12), Rows(2, 0, TREE, 4)]
WIDE = [Rows(0, 130, random_tree(RANDOM, 70, chain=3), 70)]


def plan(case: Case, **options: Any) -> PagedPlan:
    return plan_paged_attention(
        case.requests, groups=case.shape.groups, head_size=case.shape.head_size,
        dtype=case.shape.dtype, device=case.q.device, **options,
    )  # fmt: skip


def attend(case: Case, softcap: float | None = None, **options: Any) -> Tensor:
    out = torch.full_like(case.q, torch.nan)
    return paged_attention(
        case.q, case.context, case.scratch, plan(case, **options), softcap=softcap, out=out
    )


def rms(error: Tensor) -> float:
    return float(error.double().pow(2).mean().sqrt())


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Within 8 roundings of the dtype: values and outputs are of unit size or below."""
    assert float((got.double() - expected.double()).abs().max()) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("requests", "shape", "options"),
    [
        (MIXED, Shape(64, key_heads=2), {}),
        (MIXED, Shape(128, groups=5, page=16), {"chunk": 64}),
        (MIXED, Shape(80, groups=3, page=32), {"window": 20, "chunk": 64}),
        (MIXED, Shape(96, groups=4, dtype=torch.float16), {"softcap": 20.0}),
        (MIXED, Shape(256, groups=2, page=128), {"window": 1}),
        (DECODING, Shape(64, groups=8, page=8), {"chunk": 64}),
        (DECODING, Shape(32, groups=3, page=32), {}),
        (DECODING, Shape(80, key_heads=2, groups=7, dtype=torch.float16), {}),
        ([Rows(0, 64 * 15 + 5, [-1], 1)], Shape(64, groups=8), {"chunk": 64}),
        (WIDE, Shape(64, groups=2), {"window": 66, "softcap": 5.0, "chunk": 64}),
        (DECODING, Shape(64, groups=6, dtype=torch.float16), {"softcap": 2.0}),
    ],
)  # fmt: skip
def test_it_agrees_with_float64(
    place: torch.device, requests: list[Rows], shape: Shape, options: dict[str, Any]
) -> None:
    case = random_case(requests, shape, device=place)
    lse = torch.full(case.q.shape[:2], torch.nan, device=place)
    softcap = options.get("softcap")
    own = plan(case, **{key: value for key, value in options.items() if key != "softcap"})
    out = paged_attention(case.q, case.context, case.scratch, own, softcap=softcap, lse=lse)
    expected, sums = _reference(case.q, case.context, case.scratch, own, softcap=softcap)
    assert_close(out, expected, shape.dtype)
    assert_close(lse, sums, torch.float32)
    alone = paged_attention(case.q, case.context, case.scratch, own, softcap=softcap)
    assert_close(alone, expected, shape.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_its_error_is_at_most_twice_that_of_pytorch(
    place: torch.device, dtype: torch.dtype
) -> None:
    case = random_case(MIXED, Shape(128, key_heads=2, groups=3, dtype=dtype), device=place)
    own = plan(case, chunk=64)
    expected, _ = _reference(case.q, case.context, case.scratch, own)
    assert expected.numel() >= 10_000
    ours = rms(paged_attention(case.q, case.context, case.scratch, own).double() - expected)
    assert ours <= 2 * rms(pytorch(case, own).double() - expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_its_error_in_bfloat16_is_at_most_twice_that_of_pytorch() -> None:
    test_its_error_is_at_most_twice_that_of_pytorch(torch.device("cuda"), torch.bfloat16)


def pytorch(case: Case, own: PagedPlan) -> Tensor:
    """PyTorch's own attention, request by request."""
    out = torch.empty_like(case.q)
    attend_with_torch(
        case.q, case.context, case.scratch, own,
        scale=case.q.shape[2] ** -0.5, softcap=None, out=out, lse=None,
    )  # fmt: skip
    return out


def test_bfloat16_is_served(place: torch.device) -> None:
    """Loosely: the interpreter cuts bits off where a GPU rounds."""
    case = random_case(MIXED, Shape(64, groups=2, dtype=torch.bfloat16), device=place)
    own = plan(case)
    expected, _ = _reference(case.q, case.context, case.scratch, own)
    assert_close(paged_attention(case.q, case.context, case.scratch, own), expected, torch.bfloat16)


def test_what_a_row_may_not_see_cannot_change_it(place: torch.device) -> None:
    """Not a sibling, not another request, not a page of nobody: bit for bit."""
    case = random_case(MIXED, Shape(64, groups=2), device=place)
    before = attend(case)
    row = 7  # of the first request, whose rows lie first
    path = {row}
    while (node := MIXED[0].parents[min(path)]) >= 0:
        path.add(node)
    keys, values = torch.randn_like(case.scratch.keys), torch.randn_like(case.scratch.values)
    keys[list(path)] = case.scratch.keys[list(path)]
    values[list(path)] = case.scratch.values[list(path)]
    changed = case._replace(scratch=case.scratch._replace(keys=keys, values=values))
    after = attend(changed)
    assert torch.equal(after[row], before[row])
    assert not torch.equal(after[:9], before[:9])


def test_moving_pages_changes_no_bit(place: torch.device) -> None:
    case = random_case(MIXED, Shape(64, groups=2), device=place)
    order = torch.randperm(case.context.keys.shape[0], generator=torch.Generator().manual_seed(3))
    target = order.to(place)
    tables = case.context.tables.clone()
    real = tables < len(order)
    tables[real] = target[tables[real].long()].int()
    keys, values = torch.empty_like(case.context.keys), torch.empty_like(case.context.values)
    keys[target], values[target] = case.context.keys, case.context.values
    moved = case._replace(context=case.context._replace(keys=keys, values=values, tables=tables))
    assert torch.equal(attend(moved), attend(case))


def test_neighbours_and_padding_change_no_bit(place: torch.device) -> None:
    case = random_case(MIXED, Shape(64, groups=2), device=place)
    tile = tile_for(64, 64, torch.float32)
    before = attend(case, tile=tile)
    padded = case._replace(requests=(*case.requests, Rows(3, 0, [], 0)))
    work = plan(case, tile=tile)
    room = Room(work.items.shape[0] + 5, 3, 4)
    assert torch.equal(attend(padded, tile=tile, room=room), before)
    first = case.requests[:1]
    scratch = case.scratch._replace(
        keys=case.scratch.keys[:9], values=case.scratch.values[:9],
        words=case.scratch.words[:9], depths=case.scratch.depths[:9],
    )  # fmt: skip
    alone = case._replace(requests=first, q=case.q[:9], scratch=scratch)
    assert torch.equal(attend(alone, tile=tile), before[:9])


def test_a_captured_plan_takes_the_work_of_another_step(place: torch.device) -> None:
    """The tensors stay; contexts, trees and splits change."""
    later = [Rows(0, 130, TREE, 9), Rows(1, 100, [-1], 1), Rows(3, 5, CHAIN, 12), *MIXED[3:]]
    room = Room(12, 3, 8)
    static = plan(random_case(MIXED, Shape(64, groups=2), device=place), chunk=64, room=room)
    case = random_case(later, Shape(64, groups=2), device=place)
    filled = refill(static, plan(case, chunk=64, room=room))
    assert filled.items is static.items and filled.merges is static.merges
    out = paged_attention(case.q, case.context, case.scratch, filled)
    assert torch.equal(out, attend(case, chunk=64))
    with pytest.raises(KernelError, match="got a plan with window 7; expected None"):
        refill(static, plan(case, chunk=64, room=room, window=7))
    with pytest.raises(KernelError, match="got items of shape"):
        refill(static, plan(case, chunk=64, room=room._replace(items=13)))


def test_other_splits_and_tiles_change_only_rounding(place: torch.device) -> None:
    case = random_case(WIDE, Shape(64), device=place)
    expected = attend(case)
    for chunk, tile in ((64, None), (128, Tile(16, 16, 4, 2)), (None, Tile(128, 32, 4, 2))):
        assert_close(attend(case, chunk=chunk, tile=tile), expected, torch.float32)


def test_relabelled_nodes_only_change_places(place: torch.device) -> None:
    case = random_case([Rows(0, 40, TREE, 9)], Shape(64, groups=2), device=place)
    order = _another_order(TREE)
    where = {old: new for new, old in enumerate(order)}
    parents = [where[TREE[old]] if TREE[old] >= 0 else -1 for old in order]
    requests = (Rows(0, 40, parents, 9),)
    words, depth = tree_tables(requests)
    scratch = case.scratch._replace(
        keys=case.scratch.keys[order], values=case.scratch.values[order],
        words=words.to(place), depths=depth.to(place),
    )  # fmt: skip
    relabelled = case._replace(requests=requests, q=case.q[order].contiguous(), scratch=scratch)
    assert order != sorted(order)
    assert_close(attend(relabelled, window=43), attend(case, window=43)[order], torch.float32)


def _another_order(parents: list[int]) -> list[int]:
    """Depth first, last child first."""
    order: list[int] = []
    open_nodes = [node for node, parent in enumerate(parents) if parent < 0]
    while open_nodes:
        node = open_nodes.pop()
        order.append(node)
        open_nodes += [child for child, parent in enumerate(parents) if parent == node]
    return order


def test_every_branch_equals_a_plain_chain(place: torch.device) -> None:
    case = random_case([Rows(0, 70, TREE, 9)], Shape(64, groups=2), device=place)
    out = attend(case, window=60)
    for leaf in set(range(9)) - set(TREE):
        path = [leaf]
        while TREE[path[0]] >= 0:
            path.insert(0, TREE[path[0]])
        requests = (Rows(0, 70, range(-1, len(path) - 1), len(path)),)
        words, depth = tree_tables(requests)
        scratch = case.scratch._replace(
            keys=case.scratch.keys[path], values=case.scratch.values[path],
            words=words.to(place), depths=depth.to(place),
        )  # fmt: skip
        chain = case._replace(requests=requests, q=case.q[path].contiguous(), scratch=scratch)
        assert_close(attend(chain, window=60), out[path], torch.float32)


def test_a_row_that_sees_nothing_is_zero_and_not_nan(place: torch.device) -> None:
    import kernels.backend

    if place.type == "cpu" and not kernels.backend.interpreting():
        pytest.skip("the PyTorch path follows parents, by which every row sees itself")
    case = random_case([Rows(0, 0, TREE, 9)], Shape(64, groups=2), device=place)
    case.scratch.words[3] = 0
    lse = torch.full(case.q.shape[:2], torch.nan, device=place)
    out = paged_attention(case.q, case.context, case.scratch, plan(case), lse=lse)
    assert (out[3] == 0).all() and (lse[3] == -torch.inf).all()
    assert out.isfinite().all() and lse[[0, 1, 2, 4, 5, 6, 7, 8]].isfinite().all()


def test_nothing_outside_the_output_is_written(place: torch.device) -> None:
    case = random_case(MIXED, Shape(80, groups=3), device=place)
    band = torch.full((case.q.shape[0] + 8, 7, 96), 77.0, device=place)
    out = band[4:-4, 2:5, :80]
    paged_attention(case.q, case.context, case.scratch, plan(case, chunk=64), out=out)
    assert torch.equal(out, attend(case, chunk=64))
    out.fill_(77.0)
    assert (band == 77.0).all()


def test_nothing_outside_any_buffer_is_read_or_written(place: torch.device, bands: Any) -> None:
    case = random_case(MIXED, Shape(80, groups=3, page=32), device=place)
    own = plan(case, chunk=64, window=60)
    around = bands.around
    lse = around(torch.full(case.q.shape[:2], torch.nan, device=place))
    out = paged_attention(
        around(case.q),
        case.context._replace(**{name: around(getattr(case.context, name))
                                 for name in ("keys", "values", "tables")}),
        case.scratch._replace(**{name: around(getattr(case.scratch, name))
                                 for name in ("keys", "values", "words", "depths")}),
        own._replace(items=around(own.items), merges=around(own.merges)),
        out=around(torch.full_like(case.q, torch.nan)), lse=lse,
    )  # fmt: skip
    assert bands.intact()
    assert lse.isfinite().all()
    assert_close(out, attend(case, chunk=64, window=60), torch.float32)


def test_a_prompt_chunk_may_be_longer_than_its_words(place: torch.device) -> None:
    case = random_case([Rows(0, 30, list(range(-1, 79)), 70)], Shape(64), device=place)
    no_words = torch.zeros((80, 1), dtype=torch.int64, device=place)
    bare = case._replace(scratch=case.scratch._replace(words=no_words))
    expected, _ = _reference(case.q, case.context, case.scratch, plan(case))
    assert_close(attend(bare), expected, torch.float32)


@pytest.mark.parametrize(
    "bad",
    [
        {"q": torch.zeros(4, 2, 64)},
        {"q": torch.zeros(3, 3, 64)},
        {"q": torch.zeros(3, 2, 72)},
        {"q": torch.zeros(3, 2, 64, dtype=torch.float64)},
        {"q": torch.zeros(3, 2, 64, dtype=torch.float16)},
        {"q": torch.zeros(3, 64, 2).transpose(1, 2)},
        {"q": torch.zeros(3, 2, 64, device="meta")},
        {"tables": torch.zeros(1, 4, dtype=torch.int32)},
        {"tables": torch.zeros(3, 1, dtype=torch.int32)},
        {"tables": torch.zeros(3, 4, dtype=torch.int64)},
        {"keys": torch.zeros(5, 24, 1, 64)},
        {"keys": torch.zeros(5, 64, 2, 64)},
        {"words": torch.zeros(3, 1, dtype=torch.int32)},
        {"words": torch.zeros(2, 1, dtype=torch.int64)},
        {"depths": torch.zeros(6, dtype=torch.int32)[::2]},
        {"lse": torch.zeros(3, 2, dtype=torch.float16)},
        {"out": torch.zeros(3, 2, 128)},
        {"softcap": 0.0},
    ],
)  # fmt: skip
def test_tensors_that_disagree_are_refused(bad: dict[str, Any]) -> None:
    case = random_case(DECODING, Shape(64, groups=2))
    context = case.context._replace(**{k: v for k, v in bad.items() if k in ("keys", "tables")})
    scratch = case.scratch._replace(**{k: v for k, v in bad.items() if k in ("words", "depths")})
    rest = {key: value for key, value in bad.items() if key in ("out", "lse", "softcap")}
    with pytest.raises(KernelError, match=r"got .*; expected"):
        paged_attention(bad.get("q", case.q), context, scratch, plan(case), **rest)


def test_a_tree_wider_than_its_words_is_refused() -> None:
    case = random_case(WIDE, Shape(64))
    scratch = case.scratch._replace(words=case.scratch.words[:, :1].contiguous())
    with pytest.raises(KernelError, match=r"got a tree of 70 rows .* expected at most 64"):
        paged_attention(case.q, case.context, scratch, plan(case))


def test_a_page_that_does_not_exist_is_found_when_asked(place: torch.device) -> None:
    case = random_case(DECODING, Shape(64, groups=2), device=place)
    own = plan(case)
    paged_attention(case.q, case.context, case.scratch, own, debug=True)
    case.context.tables[1, 1] = 6
    with pytest.raises(KernelError, match=r"slot 1 names page 6; expected 0 <= page < 5"):
        paged_attention(case.q, case.context, case.scratch, own, debug=True)


@pytest.mark.parametrize(
    ("requests", "options"),
    [
        ([Rows(0, 0, [-1, 1], 1)], {}),
        ([Rows(0, 0, [-1], 2)], {}),
        ([Rows(0, -1, [-1], 1)], {}),
        ([Rows(-1, 0, [-1], 1)], {}),
        (DECODING, {"chunk": 63}),
        (DECODING, {"window": 0}),
        (DECODING, {"groups": 9}),
        (DECODING, {"head_size": 48}),
        (DECODING, {"dtype": torch.float64}),
        (DECODING, {"room": Room(2, 0, 0)}),
    ],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(
    requests: list[Rows], options: dict[str, Any]
) -> None:
    described = {"groups": 2, "head_size": 64, "dtype": torch.float32} | options
    with pytest.raises(KernelError, match="expected"):
        plan_paged_attention(requests, device=torch.device("cpu"), **described)


def test_a_split_depends_on_the_request_alone() -> None:
    long, short = Rows(0, 5000, [-1], 1), Rows(1, 10, TREE, 9)
    tile = tile_for(16, 64, torch.float32)
    options: dict[str, Any] = {
        "groups": 1, "head_size": 64, "dtype": torch.float32, "device": torch.device("cpu"),
        "tile": tile,
    }  # fmt: skip
    alone = plan_paged_attention([long], **options)
    together = plan_paged_attention([long, short], **options)
    columns = [7, 8, 10]
    assert alone.items[:, columns].tolist() == [[0, 2048, 0], [2048, 4096, 0], [4096, 5000, 1]]
    own = together.items[together.items[:, 0] == 0]
    assert own[:, columns].tolist() == alone.items[:, columns].tolist()


@pytest.mark.full
def test_a_context_of_128k_and_a_tree_of_256_nodes(place: torch.device) -> None:
    requests = [
        Rows(0, 131_072, [-1], 1),
        Rows(1, 3000, random_tree(np.random.default_rng(1), 256), 256),
    ]
    case = random_case(requests, Shape(64), device=place)
    own = plan(case)
    expected, _ = _reference(case.q, case.context, case.scratch, own)
    ours = rms(paged_attention(case.q, case.context, case.scratch, own).double() - expected)
    assert ours <= 2 * rms(pytorch(case, own).double() - expected)
