"""Prefixes outlive the engine that computed them, and speculation costs none of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drafting.source import Reference
from verifier.block_courier import BlockPolicy
from verifier.block_format import BlockFormat
from verifier.blocks import Good, MemoryBlockStore
from verifier.engine import Engine, EngineConfig
from verifier.loading import LoadedModel
from verifier.request import Speculation, StopRules

PROMPT = tuple(range(10, 60))


def engine_over(store: Any, *models: LoadedModel, **config: Any) -> Engine:
    policy = BlockPolicy(fetch="always", wait_s=config.pop("wait_s", 20.0), audit_every=0)
    settled = EngineConfig(**{"page_size": 8, "block_policy": policy, **config})
    return Engine({model.name: model for model in models}, settled, blocks=store)


def ended(engine: Engine) -> None:
    engine.close()


def test_a_new_engine_takes_up_the_prefix_of_an_old_one(llama: LoadedModel, drive: Any) -> None:
    store = MemoryBlockStore()
    first = engine_over(store, llama)
    [before] = drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama)
    [after] = drive.run(second, drive.request(PROMPT))
    assert drive.tokens(after) == drive.tokens(before)
    assert before[-1].receipt.cached_prompt_tokens == 0
    assert after[-1].receipt.cached_prompt_tokens == 48
    stats = second.stats().models["llama"]
    assert stats.block_hit_tokens == stats.prefix_hit_tokens == 48
    assert stats.blocks["restored"] == 6
    assert stats.pages_used == 0


def test_what_came_from_the_store_is_what_the_engine_had(llama: LoadedModel, drive: Any) -> None:
    """Log-probs see every bit of the keys and values."""
    store = MemoryBlockStore()
    asked = {"top_logprobs": 3, "tokens": 8, "speculate": False}
    first = engine_over(store, llama)
    drive.run(first, drive.request(PROMPT, **asked))
    [kept] = drive.run(first, drive.request(PROMPT, **asked))
    ended(first)
    [restored] = drive.run(engine_over(store, llama), drive.request(PROMPT, **asked))
    assert [o.logprobs for o in restored] == [o.logprobs for o in kept]


def test_another_salt_model_or_page_size_finds_nothing(
    llama: LoadedModel, drafter: LoadedModel, drive: Any
) -> None:
    store = MemoryBlockStore()
    first = engine_over(store, llama, drafter)
    drive.run(first, drive.request(PROMPT, cache_salt="a"))
    ended(first)
    assert len(store) > 0
    for changes, config in (
        ({"cache_salt": "b"}, {}),
        ({"cache_salt": "a", "model": "drafter"}, {}),
        ({"cache_salt": "a"}, {"page_size": 4}),
    ):
        other = engine_over(store, llama, drafter, **config)
        [outputs] = drive.run(other, drive.request(PROMPT, **changes))
        assert outputs[-1].receipt.cached_prompt_tokens == 0
        ended(other)


def test_choices_of_one_request_fetch_their_prefix_once(llama: LoadedModel, drive: Any) -> None:
    store = MemoryBlockStore()
    first = engine_over(store, llama)
    drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama)
    outputs = drive.run(second, *(drive.request(PROMPT, choice=number) for number in range(4)))
    assert [one[-1].receipt.cached_prompt_tokens for one in outputs] == [48] * 4
    assert second.stats().models["llama"].blocks["restored"] == 6


class Spoilt(MemoryBlockStore):
    """Gives back what ``spoil`` makes of a value."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        def spoilt(at: int, value: memoryview) -> bool:
            return good(at, memoryview(bytearray(self.spoil(bytes(value)))))

        super().restore(names, size, spoilt, owner)


def fail(_: bytes) -> bytes:
    raise OSError("gone")


def wait(value: bytes) -> bytes:
    time.sleep(0.3)
    return value


def test_a_fetched_page_is_now_and_then_computed_again_and_agrees(
    llama: LoadedModel, drive: Any
) -> None:
    store = MemoryBlockStore()
    first = engine_over(store, llama)
    [before] = drive.run(first, drive.request(PROMPT))
    ended(first)
    policy = BlockPolicy(fetch="always", wait_s=20.0, audit_every=4)
    second = engine_over(store, llama, block_policy=policy)
    [after] = drive.run(second, drive.request(PROMPT))
    assert drive.tokens(after) == drive.tokens(before)
    stats = second.stats().models["llama"]
    assert stats.blocks["agreed"] == 1
    assert stats.blocks.get("restored", 0) == after[-1].receipt.cached_prompt_tokens // 8 < 6
    assert not stats.blocks_off


def test_a_page_that_is_not_what_the_model_computes_turns_the_store_off_and_is_forgotten(
    llama: LoadedModel, drive: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong but well-formed, under the right name: what no checksum can find."""
    store = MemoryBlockStore()
    first = engine_over(store, llama)
    [before] = drive.run(first, drive.request(PROMPT))
    ended(first)
    layout = BlockFormat(llama.fingerprint, llama.network.cache_shape, 8, b"")
    for name, kept in list(store._values.items()):
        page = layout.decode(name, kept.value)
        assert page is not None
        store.save(name, layout.encode(name, page * 1.01) or (), kept.owner)
    policy = BlockPolicy(fetch="always", wait_s=20.0, audit_every=4)
    second = engine_over(store, llama, block_policy=policy)
    drive.run(second, drive.request(PROMPT))
    stats = second.stats().models["llama"]
    assert stats.blocks["mismatched"] == 1
    assert stats.blocks_off
    assert [one.levelname for one in caplog.records if "ALARM" in one.message] == ["ERROR"]
    restored = stats.blocks.get("restored", 0)
    for _ in range(2):
        [again] = drive.run(second, drive.request(PROMPT, top_logprobs=2, speculate=False))
        assert drive.tokens(again) == drive.tokens(before)
    clean = drive.engine(llama, page_size=8)
    for _ in range(2):
        [right] = drive.run(clean, drive.request(PROMPT, top_logprobs=2, speculate=False))
    for one, other in zip(again, right, strict=True):
        for mine, true in zip(one.logprobs, other.logprobs, strict=True):
            assert mine.logprob == pytest.approx(true.logprob, abs=1e-4)
    assert second.stats().models["llama"].blocks.get("restored", 0) == restored
    assert second.stats().models["llama"].pages_used == 0


def test_a_store_slower_than_computing_is_turned_down_and_looked_at_again(
    llama: LoadedModel, drive: Any
) -> None:
    store = Spoilt(wait)
    first = engine_over(store, llama)
    [before] = drive.run(first, drive.request(PROMPT))
    ended(first)
    prompts = [(*PROMPT, *range(start, start + 20)) for start in (70, 100, 130, 160)]
    fast = engine_over(store, llama, block_policy=BlockPolicy())
    [after] = drive.run(fast, drive.request(PROMPT))
    assert drive.tokens(after) == drive.tokens(before)
    assert after[-1].receipt.cached_prompt_tokens == 0, "late"
    deadline = time.monotonic() + 20
    while not fast.stats().models["llama"].block_fetch_s:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for number, prompt in enumerate(prompts):
        drive.run(fast, drive.request((number + 5, *prompt), tokens=1))
    stats = fast.stats().models["llama"]
    assert stats.blocks["declined"] > 0
    assert stats.block_fetch_s > stats.block_compute_s > 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value[:-1],
        lambda value: value[:-9] + b"\xff" + value[-8:],
        lambda value: b"",
        fail,
        wait,
    ],
)
def test_a_store_that_lies_fails_or_dawdles_changes_no_text(
    llama: LoadedModel, drive: Any, spoil: Any
) -> None:
    store = Spoilt(spoil)
    first = engine_over(store, llama)
    [before] = drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama, wait_s=0.05)
    [after] = drive.run(second, drive.request(PROMPT))
    assert drive.tokens(after) == drive.tokens(before)
    assert after[-1].receipt.cached_prompt_tokens == 0
    assert second.stats().models["llama"].pages_used == 0


def test_who_waits_for_pages_holds_up_nobody(llama: LoadedModel, drive: Any) -> None:
    store = Spoilt(wait)
    first = engine_over(store, llama)
    drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama)
    second.submit(drive.request(PROMPT, name="waits"))
    second.submit(drive.request(PROMPT[::-1][:5], name="passes", tokens=4))
    order = []
    while second.has_work():
        order += [output.request_id for output in second.step() if output.receipt]
    assert order == ["passes", "waits"]
    assert second.stats().models["llama"].block_hit_tokens > 0


def test_a_request_cancelled_while_its_pages_come_leaves_nothing(
    llama: LoadedModel, drive: Any
) -> None:
    store = Spoilt(wait)
    first = engine_over(store, llama)
    drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama)
    second.submit(drive.request(PROMPT))
    second.cancel("r")
    [output] = second.step()
    assert output.finish_reason == "cancelled"
    assert not second.has_work()
    assert second.stats().models["llama"].pages_used == 0


def test_an_engine_that_waits_for_pages_does_not_spin(llama: LoadedModel, drive: Any) -> None:
    store = Spoilt(wait)
    first = engine_over(store, llama)
    drive.run(first, drive.request(PROMPT))
    ended(first)
    second = engine_over(store, llama)
    second.submit(drive.request(PROMPT, tokens=1))
    empty = 0
    while second.has_work():
        empty += not second.step()
    assert empty <= 3


def test_what_is_saved_was_emitted_and_nothing_else_even_after_a_cut_draft(
    llama: LoadedModel, drive: Any
) -> None:
    """A stop string in the middle of an accepted draft: no page holds a token after it."""
    from verifier.pages import page_hash, root_hash

    [plain] = drive.run(drive.engine(llama), drive.request(PROMPT, tokens=60))
    written = drive.tokens(plain)
    text = llama.decode(written)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    cut = drive.request(
        PROMPT,
        stops=StopRules(max_tokens=60, stop=(stop,), ignore_eos=True),
        references=(Reference("prediction", tuple(written)),),
        speculation=Speculation(mode="fixed", max_nodes=16),
    )
    seen = {}
    for page_size in (1, 4):
        store = MemoryBlockStore()
        engine = engine_over(store, llama, page_size=page_size)
        [outputs] = drive.run(engine, cut)
        ended(engine)
        emitted = drive.tokens(outputs)
        receipt = outputs[-1].receipt
        assert outputs[-1].finish_reason == "stop"
        assert receipt.accepted > 0
        assert receipt.output_tokens == len(emitted) < len(written)
        assert emitted == written[: len(emitted)]
        assert stop not in drive.text(outputs)
        name, names, whole = root_hash(llama.fingerprint, ""), set(), [*PROMPT, *emitted]
        for start in range(0, len(whole) - page_size + 1, page_size):
            name = page_hash(name, whole[start : start + page_size])
            names.add(name)
        assert set(store._values) <= names
        assert len(store) == (len(whole) - 1) // page_size
        seen[page_size] = len(store)
    assert seen[1] > seen[4] > 0


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_speculation_costs_no_hit_rate(llama: LoadedModel, drive: Any, data: Any) -> None:
    """The same requests in the same order, with few pages: the very same tokens are found."""
    pages = data.draw(st.integers(20, 26), "pages")
    engines = {mode: drive.engine(llama, page_size=4, pages=pages) for mode in ("off", "fixed")}
    hits: dict[str, list[int]] = {mode: [] for mode in engines}
    past: list[tuple[int, ...]] = [PROMPT[:17]]
    for number in range(data.draw(st.integers(3, 9), "requests")):
        base = past[data.draw(st.integers(0, len(past) - 1), "base")]
        cut = data.draw(st.integers(len(base) // 2 + 1, len(base)), "cut")
        extra = data.draw(st.lists(st.integers(5, 300), max_size=6), "extra")
        prompt = (*base[:cut], *extra)[:60]
        stops = StopRules(
            max_tokens=data.draw(st.integers(1, 20), "tokens"),
            stop_token_ids=frozenset(range(0, 320, 7)),
        )
        known: tuple[int, ...] = ()
        for mode, engine in engines.items():
            request = drive.request(
                prompt,
                name=str(number),
                stops=stops,
                references=(Reference("prediction", (*known, 9, 9)),) if known else (),
                speculation=Speculation(mode=mode),
            )
            [outputs] = drive.run(engine, request)
            known = tuple(drive.tokens(outputs))
            hits[mode].append(outputs[-1].receipt.cached_prompt_tokens)
        past.append((*prompt, *known))
    assert hits["fixed"] == hits["off"]
    pools = [engine._decoders["llama"].cache.pool for engine in engines.values()]
    assert pools[0]._page_of.keys() == pools[1]._page_of.keys()


def test_a_draft_evicts_no_prefix_unless_it_is_accepted(llama: LoadedModel, drive: Any) -> None:
    """Eight pages: five keep a prefix, three are enough for a request, were it not for drafts."""
    kept, short = PROMPT[:21], PROMPT[30:38]
    [free] = drive.run(drive.engine(llama), drive.request(short, tokens=2))
    first, second = drive.tokens(free)
    wrong = tuple((second + 1 + at) % 300 + 5 for at in range(14))
    engine = drive.engine(llama, page_size=4, pages=8)
    drive.run(engine, drive.request(kept, tokens=1))
    [outputs] = drive.run(
        engine,
        drive.request(
            short,
            stops=StopRules(max_tokens=16, stop_token_ids=frozenset({second})),
            references=(Reference("prediction", (first, *wrong)),),
            speculation=Speculation(mode="fixed", max_nodes=16),
        ),
    )
    assert outputs[-1].receipt.drafted >= 10
    [again] = drive.run(engine, drive.request(kept, tokens=1))
    assert again[-1].receipt.cached_prompt_tokens == 20


def test_a_page_of_broken_numbers_is_never_saved(make_model: Any, drive: Any) -> None:
    from transformers import LlamaConfig

    from verifier.loading import load_model

    model = load_model(make_model(LlamaConfig, 3), name="llama")
    model.network.embedding[77] = float("nan")
    store = MemoryBlockStore()
    engine = engine_over(store, model, step_tokens=16)
    [outputs] = drive.run(engine, drive.request((77, *PROMPT)))
    assert outputs[-1].error is not None
    ended(engine)
    assert len(store) == 0
    assert engine.stats().models["llama"].blocks["refused"] > 0
