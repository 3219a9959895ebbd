"""Where a choice ends: the earliest of its stops, wherever it falls in an accepted run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.loading import LoadedModel
from verifier.output import Output, Taken
from verifier.request import Speculation, StopRules

EOS = frozenset({2})
FIXED = Speculation(mode="fixed", max_nodes=8)


def output(llama: LoadedModel, **stops: Any) -> Output:
    return Output(StopRules(**{"max_tokens": 100, **stops}), eos=EOS, decode=llama.decode)


@settings(deadline=None)
@given(
    text=st.text(alphabet="abc ", min_size=1, max_size=30),
    stop=st.lists(st.text(alphabet="abc ", min_size=1, max_size=4), max_size=3),
    max_tokens=st.integers(1, 20),
    cuts=st.lists(st.integers(1, 6), min_size=1),
)
def test_offering_tokens_one_by_one_or_in_runs_comes_to_the_same(
    llama: LoadedModel, text: str, stop: list[str], max_tokens: int, cuts: list[int]
) -> None:
    tokens = llama.encode(text)
    rules = {"stop": tuple(stop), "max_tokens": max_tokens}

    def taken(runs: list[int]) -> tuple[int, str, str | None, str | int | None]:
        sink, kept, joined, start, turn = output(llama, **rules), 0, "", 0, 0
        while start < len(tokens):
            run = tokens[start : start + runs[turn % len(runs)]]
            start, turn = start + len(run), turn + 1
            got = sink.take(run)
            kept, joined = kept + got.kept, joined + got.text
            if got.finish_reason:
                return kept, joined, got.finish_reason, got.stop_reason
        return kept, joined, None, None

    assert taken(cuts) == taken([1])
    kept, joined, reason, _ = taken(cuts)
    if reason == "length":
        assert joined == llama.decode(tokens[:kept])
    assert all(string not in joined for string in stop)


def test_what_follows_the_end_of_sequence_in_a_run_is_dropped(llama: LoadedModel) -> None:
    tokens = [*llama.encode("ab"), 2, *llama.encode("cd")]
    kept = tokens.index(2) + 1
    assert output(llama).take(tokens) == Taken(kept, "ab", "stop", None)


def test_the_end_of_sequence_is_ordinary_when_it_is_to_be_ignored(llama: LoadedModel) -> None:
    tokens = [*llama.encode("ab"), 2, *llama.encode("cd")]
    taken = output(llama, ignore_eos=True).take(tokens)
    assert (taken.kept, taken.finish_reason) == (len(tokens), None)


def test_a_stop_token_is_named_and_its_text_left_out(llama: LoadedModel) -> None:
    [a], [b] = llama.encode("a"), llama.encode("b")
    taken = output(llama, stop_token_ids=frozenset({b})).take([a, b, a])
    assert taken == Taken(2, "a", "stop", b)


def test_a_run_beyond_the_limit_is_cut(llama: LoadedModel) -> None:
    [a] = llama.encode("a")
    assert output(llama, max_tokens=3).take([a] * 5) == Taken(3, "aaa", "length", None)


def test_held_text_comes_out_at_the_end(llama: LoadedModel) -> None:
    [a], [b] = llama.encode("a"), llama.encode("b")
    sink = output(llama, max_tokens=2, stop=("abc",))
    assert sink.take([a]).text == ""
    assert sink.take([b]) == Taken(1, "ab", "length", None)


def test_a_stop_string_before_the_least_length_is_text(llama: LoadedModel) -> None:
    [a], [b] = llama.encode("a"), llama.encode("b")
    sink = output(llama, min_tokens=3, stop=("b",))
    assert sink.take([a, b, a, b]) == Taken(4, "aba", "stop", "b")


@pytest.mark.parametrize("speculation", [Speculation(mode="off"), FIXED])
def test_a_stop_string_found_in_a_long_text_cuts_tokens_logprobs_and_usage_alike(
    llama: LoadedModel, drive: Any, speculation: Speculation
) -> None:
    prompt = (5, 6, 7) * 4
    engine = drive.engine(llama)
    [whole] = drive.run(engine, drive.request(prompt))
    text = drive.text(whole)
    stop = text[len(text) // 2 :][:3]
    request = drive.request(
        prompt,
        stops=StopRules(max_tokens=24, ignore_eos=True, stop=(stop,)),
        speculation=speculation,
        top_logprobs=0,
    )
    [outputs] = drive.run(engine, request)
    assert drive.text(outputs) == text[: text.index(stop)]
    last = outputs[-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", stop)
    tokens = drive.tokens(outputs)
    assert tokens == drive.tokens(whole)[: len(tokens)]
    assert len(tokens) == last.receipt.output_tokens
    assert [entry.token_id for output in outputs for entry in output.logprobs] == tokens


@pytest.mark.parametrize("speculation", [Speculation(mode="off"), FIXED])
def test_end_of_sequence_is_banned_until_enough_tokens_are_out(
    llama: LoadedModel, drive: Any, speculation: Speculation
) -> None:
    engine = drive.engine(llama)
    [whole] = drive.run(engine, drive.request((5, 6, 7) * 4))
    early = drive.tokens(whole)[3]
    stops = StopRules(max_tokens=24, ignore_eos=True, stop_token_ids=frozenset({early}))
    [stopped] = drive.run(
        engine, drive.request((5, 6, 7) * 4, stops=stops, speculation=speculation)
    )
    first = drive.tokens(whole).index(early) + 1
    assert len(drive.tokens(stopped)) == first
    assert stopped[-1].stop_reason == early
    held = StopRules(
        max_tokens=24, min_tokens=12, ignore_eos=True, stop_token_ids=frozenset({early})
    )
    [longer] = drive.run(engine, drive.request((5, 6, 7) * 4, stops=held, speculation=speculation))
    assert len(drive.tokens(longer)) > 12
    assert early not in drive.tokens(longer)[:12]
