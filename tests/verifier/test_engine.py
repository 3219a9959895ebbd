"""What an engine promises its callers: limits, memory, order, counts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from transformers import LlamaConfig

import verifier.setup
from verifier.engine import MOST_FAILURES, Engine
from verifier.errors import ContextOverflow, EngineBroken, ModelRefused, QueueFull, RequestRefused
from verifier.loading import LoadedModel, load_model
from verifier.request import SamplingParams, Speculation, StopRules

PROMPT = tuple(range(10, 50))


def is_empty(engine: Engine) -> bool:
    """Nothing runs, waits, or holds a page."""
    stats = engine.stats().models["llama"]
    return not engine.has_work() and stats.running == stats.waiting == stats.pages_used == 0


def test_too_long_a_request_is_refused_with_both_numbers(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)
    with pytest.raises(ContextOverflow, match=r"40 prompt tokens and max_tokens 300.*256"):
        engine.submit(drive.request(PROMPT, tokens=300))
    with pytest.raises(ContextOverflow, match=r"300 prompt tokens.*256"):
        engine.submit(drive.request(PROMPT * 7 + PROMPT[:20], tokens=1))


def test_the_last_position_of_the_context_can_be_used(llama: LoadedModel, drive: Any) -> None:
    [outputs] = drive.run(drive.engine(llama), drive.request(PROMPT, tokens=256 - len(PROMPT)))
    assert len(drive.tokens(outputs)) == 256 - len(PROMPT)
    assert outputs[-1].finish_reason == "length"


def test_a_request_larger_than_all_pages_is_refused_not_preempted_for_ever(
    llama: LoadedModel, drive: Any
) -> None:
    engine = drive.engine(llama, pages=4, page_size=8)
    with pytest.raises(ContextOverflow, match="32"):
        engine.submit(drive.request(PROMPT))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"prompt": ()}, "prompt"),
        ({"prompt": (320,)}, "prompt"),
        ({"prompt": (-1,)}, "prompt"),
        ({"stops": StopRules(max_tokens=0)}, "max_tokens"),
        ({"stops": StopRules(max_tokens=4, min_tokens=5)}, "min_tokens"),
        ({"stops": StopRules(max_tokens=4, stop=("x",) * 10_000)}, "stop"),
        ({"stops": StopRules(max_tokens=4, stop=("",))}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"sampling": SamplingParams(temperature=float("nan"))}, "temperature"),
        ({"sampling": SamplingParams(logit_bias={9999: 1.0})}, "logit_bias"),
        (
            {"speculation": Speculation(sources=frozenset({"tea leaves"}))},
            "spillway.speculation.sources",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_and_disturbs_nobody(
    llama: LoadedModel, drive: Any, changes: dict[str, Any], param: str
) -> None:
    engine = drive.engine(llama)
    alone = drive.tokens(drive.run(engine, drive.request(PROMPT, name="alone"))[0])
    engine.submit(drive.request(PROMPT, name="good"))
    before = drive.tokens(engine.step())
    with pytest.raises(RequestRefused) as refused:
        engine.submit(drive.request(**{"prompt": PROMPT, "name": "bad", **changes}))
    assert refused.value.param == param
    assert before + drive.tokens(drive.drain(engine)["good", 0]) == alone
    assert is_empty(engine)


def test_a_full_queue_says_so_and_takes_requests_again_later(
    llama: LoadedModel, drive: Any
) -> None:
    engine = drive.engine(llama, max_running=1, max_waiting=2)
    engine.submit(drive.request(PROMPT, name="0"))
    engine.step()
    for name in "12":
        engine.submit(drive.request(PROMPT, name=name))
    with pytest.raises(QueueFull, match="2 requests"):
        engine.submit(drive.request(PROMPT, name="3"))
    drive.drain(engine)
    engine.submit(drive.request(PROMPT, name="3"))
    assert len(drive.drain(engine)) == 1


def test_one_choice_cannot_run_twice(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)
    engine.submit(drive.request(PROMPT))
    with pytest.raises(RequestRefused, match="running already"):
        engine.submit(drive.request(PROMPT))


def test_cancelling_frees_everything_within_one_step(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama, max_running=2)
    for name in "abc":  # two run, one waits
        engine.submit(drive.request(PROMPT, name=name))
    engine.step()
    assert engine.stats().models["llama"].pages_used > 0
    for name in ["a", "b", "c", "never heard of"]:
        engine.cancel(name)
    outputs = engine.step()
    assert {output.request_id: output.finish_reason for output in outputs} == dict.fromkeys(
        "abc", "cancelled"
    )
    assert is_empty(engine)
    assert engine.step() == []


def test_a_cancelled_request_leaves_the_others_alone(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)
    [alone] = drive.run(engine, drive.request(PROMPT, name="alone"))
    for name in "abc":
        engine.submit(drive.request(PROMPT, name=name))
    engine.step()
    engine.cancel("a")
    found = drive.drain(engine)
    assert set(found) == {("a", 0), ("b", 0), ("c", 0)}
    assert len(drive.tokens(alone)) == 24
    assert found["b", 0][-1].finish_reason == found["c", 0][-1].finish_reason == "length"


def test_all_choices_of_a_request_are_cancelled_together(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)
    for choice in range(3):
        engine.submit(drive.request(PROMPT, choice=choice))
    engine.step()
    engine.cancel("r")
    assert sorted(output.choice for output in engine.step()) == [0, 1, 2]
    assert is_empty(engine)


def test_requests_may_come_from_many_threads(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)

    def submit(first: int) -> None:
        for number in range(first, first + 5):
            engine.submit(drive.request(PROMPT[: 5 + number], name=str(number), tokens=5))

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(0, 20, 5)]
    for thread in threads:
        thread.start()
    found: dict[str, int] = {}
    while any(thread.is_alive() for thread in threads) or engine.has_work():
        for output in engine.step():
            found[output.request_id] = found.get(output.request_id, 0) + len(output.tokens)
    assert found == {str(number): 5 for number in range(20)}
    assert is_empty(engine)


def test_an_unknown_draft_model_is_refused(llama: LoadedModel, drive: Any) -> None:
    with pytest.raises(ModelRefused, match="not loaded"):
        drive.engine(llama, draft_models={"llama": "ghost"})


def test_counts_add_up_and_agree_with_the_receipts(
    llama: LoadedModel, drafter: LoadedModel, drive: Any
) -> None:
    engine = drive.engine(llama, drafter, draft_models={"llama": "drafter"})
    fixed = Speculation(mode="fixed", max_nodes=6)
    requests = [
        drive.request(PROMPT[:size] * 2, name=str(size), speculation=fixed)
        for size in (3, 5, 9, 30)
    ]
    receipts = [outputs[-1].receipt for outputs in drive.run(engine, *requests)]
    stats = engine.stats().models["llama"]
    assert 0 < stats.accepted <= stats.drafted
    assert sum(stats.accepted_by_position) == stats.accepted
    assert list(stats.accepted_by_position) == sorted(stats.accepted_by_position, reverse=True)
    assert stats.accepted == sum(receipt.accepted for receipt in receipts)
    assert stats.drafted == sum(receipt.drafted for receipt in receipts)
    assert stats.output_tokens == sum(receipt.output_tokens for receipt in receipts) == 4 * 24
    assert stats.prompt_tokens == sum(receipt.prompt_tokens for receipt in receipts)
    for name, count in stats.by_source.items():
        own = [receipt.by_source[name] for receipt in receipts if name in receipt.by_source]
        assert count.proposed == sum(entry.proposed for entry in own)
        assert count.accepted == sum(entry.accepted for entry in own) <= count.proposed
    for receipt in receipts:
        assert receipt.steps + receipt.accepted == receipt.output_tokens


def test_speculation_can_be_switched_off_for_the_model_and_for_one_request(
    llama: LoadedModel, drive: Any
) -> None:
    off = drive.engine(llama, speculation=False)
    [outputs] = drive.run(off, drive.request((5, 6, 7) * 6))
    assert outputs[-1].receipt.drafted == 0
    with pytest.raises(RequestRefused, match="without speculation"):
        off.submit(drive.request(PROMPT, speculation=Speculation(mode="fixed", max_nodes=2)))
    [outputs] = drive.run(drive.engine(llama), drive.request((5, 6, 7) * 6, speculate=False))
    assert outputs[-1].receipt.drafted == 0
    assert outputs[-1].receipt.steps == 24


def test_two_models_are_served_side_by_side(
    llama: LoadedModel, drafter: LoadedModel, drive: Any
) -> None:
    engine = drive.engine(llama, drafter)
    requests = [drive.request(PROMPT, name=name, model=name) for name in ("llama", "drafter")]
    together = [drive.tokens(outputs) for outputs in drive.run(engine, *requests)]
    apart = [drive.tokens(drive.run(engine, request)[0]) for request in requests]
    assert together == apart
    assert together[0] != together[1]


def test_scores_that_are_not_finite_end_that_request_alone(make_model: Any, drive: Any) -> None:
    """One token's embedding is broken; a request with it fails, its neighbours do not notice."""
    model = load_model(make_model(LlamaConfig, 3), name="llama")
    model.network.embedding[77] = float("nan")
    fine = [PROMPT, PROMPT[:5]]
    requests = [drive.request(prompt, name=str(index)) for index, prompt in enumerate(fine)]
    engine = drive.engine(model)
    expected = [drive.tokens(outputs) for outputs in drive.run(engine, *requests)]
    broken = drive.request((77, *PROMPT), name="broken")
    for _ in range(2):
        [failed, *others] = drive.run(engine, broken, *requests)
        assert "not finite" in failed[-1].error
        assert failed[-1].receipt is not None
        assert [drive.tokens(outputs) for outputs in others] == expected
    assert is_empty(engine)


def test_a_model_that_fails_at_every_step_breaks_the_engine_and_one_that_recovers_does_not(
    llama: LoadedModel, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = drive.engine(llama)

    def fails(times: int, start: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(type(llama.network), "forward", lambda *_: 1 / 0)
            for number in range(start, start + times):
                engine.submit(drive.request(PROMPT, name=str(number)))
                [broken] = engine.step()
                assert broken.error == "internal error: ZeroDivisionError"

    fails(MOST_FAILURES - 1, 0)
    assert engine.step() == []  # idle: no recovery, no failure
    drive.run(engine, drive.request(PROMPT, name="fine"))
    fails(MOST_FAILURES - 1, 100)
    assert engine.step() == []
    with pytest.raises(EngineBroken, match="5 steps of model 'llama' failed in a row"):
        fails(1, 200)


def test_a_step_that_breaks_ends_what_runs_and_the_engine_lives_on(
    llama: LoadedModel, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = drive.engine(llama, max_running=1)
    for name in "ab":
        engine.submit(drive.request(PROMPT, name=name))
    engine.step()
    with monkeypatch.context() as patched:
        patched.setattr(type(llama.network), "forward", lambda *_: 1 / 0)
        [broken] = engine.step()
    assert (broken.request_id, broken.error) == ("a", "internal error: ZeroDivisionError")
    found = drive.drain(engine)
    assert len(drive.tokens(found["b", 0])) == 24
    assert is_empty(engine)


def test_memory_for_keys_and_values_is_predicted(
    llama: LoadedModel, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier.setup, "free_device_bytes", lambda _: 1_000_000)
    with pytest.raises(ModelRefused, match=r"keys and values of 'llama' need about .* MiB"):
        drive.engine(llama)
