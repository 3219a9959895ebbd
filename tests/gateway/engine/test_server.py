"""The engine's endpoints over real HTTP, with a real tiny model behind them."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import pytest


async def _events(client: Any, path: str, body: Any) -> list[Any]:
    async with client.session.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    payloads = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


async def test_models_say_their_context_vocabulary_and_fingerprint(client: Any) -> None:
    status, found = await client.get("/v1/models")
    assert status == 200
    assert [one["id"] for one in found["data"]] == ["large", "small"]
    large = found["data"][0]
    assert large["max_model_len"] == 256
    assert large["vocab_size"] > 256
    assert large["fingerprint"].startswith("fp_")
    assert large["fingerprint"] != found["data"][1]["fingerprint"]
    assert (await client.get("/v1/models/large"))[1] == large


async def test_an_unknown_model_is_404_model_not_found(client: Any, chat: Any) -> None:
    for status, body in (
        await client.get("/v1/models/nosuch"),
        await client.post("/v1/chat/completions", chat(model="nosuch")),
    ):
        assert status == 404
        assert body["error"]["code"] == "model_not_found"
        assert body["error"]["param"] == "model"


async def test_a_stream_carries_the_same_text_and_usage_as_the_whole_body(
    client: Any, chat: Any
) -> None:
    _, whole = await client.post("/v1/chat/completions", chat())
    asked = chat(stream=True, stream_options={"include_usage": True})
    events = await _events(client, "/v1/chat/completions", asked)
    text = "".join(c["delta"].get("content", "") for e in events for c in e["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"] == []
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [events[-1]["usage"][c] for c in counts] == [whole["usage"][c] for c in counts]
    assert {event["id"] for event in events} == {events[0]["id"]}
    assert all(event["usage"] is None for event in events[:-1])


async def test_a_step_that_accepts_drafts_is_one_event_of_several_tokens(
    client: Any, chat: Any
) -> None:
    _, whole = await client.post("/v1/chat/completions", chat(max_tokens=32))
    content = whole["choices"][0]["message"]["content"]
    asked = chat(
        max_tokens=32,
        stream=True,
        logprobs=True,
        prediction={"type": "content", "content": content},
        spillway={"receipt": True, "speculation": {"mode": "fixed", "max_nodes": 8}},
    )
    events = await _events(client, "/v1/chat/completions", asked)
    lengths = [
        len(choice["logprobs"]["content"])
        for event in events
        for choice in event["choices"]
        if choice["logprobs"]
    ]
    receipt = events[-1]["spillway"]
    assert len(lengths) == receipt["steps"]
    assert sum(lengths) == receipt["output_tokens"] == 32
    assert max(lengths) > 1


async def test_a_right_prediction_is_accepted_and_changes_no_text(client: Any, chat: Any) -> None:
    _, plain = await client.post("/v1/chat/completions", chat(max_tokens=32))
    content = plain["choices"][0]["message"]["content"]
    asked = chat(max_tokens=32, prediction={"type": "content", "content": content})
    _, predicted = await client.post("/v1/chat/completions", asked)
    assert predicted["choices"][0]["message"]["content"] == content
    details = predicted["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] > 0


async def test_a_handed_up_draft_is_counted_in_the_receipt_and_not_in_usage(
    client: Any, chat: Any
) -> None:
    _, plain = await client.post("/v1/chat/completions", chat(max_tokens=32))
    content = plain["choices"][0]["message"]["content"]
    drafts = [{"kind": "rejected_answer", "text": content}]
    asked = chat(max_tokens=32, spillway={"receipt": True, "drafts": drafts})
    _, drafted = await client.post("/v1/chat/completions", asked)
    assert drafted["choices"][0]["message"]["content"] == content
    assert drafted["spillway"]["by_source"]["rejected_answer"]["accepted"] > 0
    details = drafted["usage"]["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == 0


async def test_no_receipt_is_given_unless_asked_for(client: Any, chat: Any) -> None:
    _, found = await client.post("/v1/chat/completions", chat())
    assert "spillway" not in found


async def test_a_seed_repeats_and_its_absence_is_reported(client: Any, chat: Any) -> None:
    asked = chat(temperature=1.0, seed=7, n=2, spillway={"receipt": True})
    first, second = [await client.post("/v1/chat/completions", asked) for _ in range(2)]
    texts = [[c["message"]["content"] for c in body["choices"]] for _, body in (first, second)]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]
    drawn = [
        (await client.post("/v1/chat/completions", chat(spillway={"receipt": True})))[1]
        for _ in range(2)
    ]
    assert drawn[0]["spillway"]["seed"] != drawn[1]["spillway"]["seed"]


async def test_several_prompts_and_choices_keep_their_order(client: Any) -> None:
    prompts = ["the quick", "lazy dog jumps"]
    asked = {"model": "large", "prompt": prompts, "n": 2, "max_tokens": 6, "seed": 3}
    _, together = await client.post("/v1/completions", asked)
    assert [one["index"] for one in together["choices"]] == [0, 1, 2, 3]
    for at, prompt in enumerate(prompts):
        _, alone = await client.post("/v1/completions", {**asked, "prompt": prompt})
        texts = [one["text"] for one in together["choices"][2 * at : 2 * at + 2]]
        assert texts == [one["text"] for one in alone["choices"]]


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_puts_the_prompt_before_each_choice(client: Any, stream: bool) -> None:
    asked = {"model": "large", "prompt": ["the quick", "lazy"], "n": 2, "max_tokens": 4, "seed": 1}
    _, bare = await client.post("/v1/completions", asked)
    wanted = [
        prompt + choice["text"]
        for prompt, choice in zip(["the quick"] * 2 + ["lazy"] * 2, bare["choices"], strict=True)
    ]
    echoed = {**asked, "echo": True, "stream": stream}
    if stream:
        texts = [""] * 4
        for event in await _events(client, "/v1/completions", echoed):
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
    else:
        _, found = await client.post("/v1/completions", echoed)
        texts = [choice["text"] for choice in found["choices"]]
    assert texts == wanted


@pytest.mark.parametrize("stream", [True, False])
async def test_echo_with_logprobs_scores_the_prompt_too(client: Any, stream: bool) -> None:
    prompts = ["the quick brown fox", "lazy"]
    asked = {"model": "large", "prompt": prompts, "n": 2, "max_tokens": 4, "seed": 1, "logprobs": 2}
    _, bare = await client.post("/v1/completions", asked)
    echoed = {**asked, "echo": True, "stream": stream}
    if stream:
        pieces: list[list[Any]] = [[] for _ in range(4)]
        for event in await _events(client, "/v1/completions", echoed):
            for choice in event["choices"]:
                pieces[choice["index"]].append(choice)
        found = [_joined(own) for own in pieces]
    else:
        _, body = await client.post("/v1/completions", echoed)
        assert body["usage"] == {**bare["usage"], "prompt_tokens_details": ANY}
        found = [(choice["text"], choice["logprobs"]) for choice in body["choices"]]
    for index, (text, logprobs) in enumerate(found):
        prompt, plain = prompts[index // 2], bare["choices"][index]
        assert text == prompt + plain["text"]
        assert "".join(logprobs["tokens"]) == text
        assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
        assert all(score <= 0 for score in logprobs["token_logprobs"][1:])
        assert all(1 <= len(top) <= 2 for top in logprobs["top_logprobs"][1:])  # two may look alike
        own = len(plain["logprobs"]["tokens"])
        assert logprobs["tokens"][-own:] == plain["logprobs"]["tokens"]
        assert logprobs["token_logprobs"][-own:] == pytest.approx(
            plain["logprobs"]["token_logprobs"], abs=1e-3
        )
        starts = [len("".join(logprobs["tokens"][:at])) for at in range(len(logprobs["tokens"]))]
        assert logprobs["text_offset"] == starts


def _joined(choices: list[Any]) -> tuple[str, dict[str, list[Any]]]:
    logprobs: dict[str, list[Any]] = {}
    for choice in choices:
        for key, values in (choice["logprobs"] or {}).items():
            logprobs.setdefault(key, []).extend(values)
    return "".join(choice["text"] for choice in choices), logprobs


async def test_a_prompt_may_be_scored_without_any_answer(client: Any) -> None:
    """As evaluation harnesses ask it: echo, log-probs, no token."""
    asked = {"model": "large", "prompt": "the quick brown", "max_tokens": 0, "echo": True}
    _, found = await client.post("/v1/completions", {**asked, "logprobs": 0})
    [choice] = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("the quick brown", "length")
    assert len(choice["logprobs"]["token_logprobs"]) == found["usage"]["prompt_tokens"]
    assert choice["logprobs"]["top_logprobs"] is None or not any(choice["logprobs"]["top_logprobs"])
    assert found["usage"]["completion_tokens"] == 0
    _, bare = await client.post("/v1/completions", asked)
    assert (bare["choices"][0]["text"], bare["choices"][0]["logprobs"]) == ("the quick brown", None)
    status, refused = await client.post("/v1/completions", {**asked, "echo": False})
    assert (status, refused["error"]["param"]) == (400, "max_tokens")


async def test_tokens_and_their_text_are_the_same_prompt(client: Any, tiny_ladder: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_ladder / "large")
    ids = tokenizer.encode("the quick brown")
    asked = {"model": "large", "max_tokens": 8, "temperature": 0}
    forms = ["the quick brown", ["the quick brown"], ids, [ids]]
    answers = [await client.post("/v1/completions", {**asked, "prompt": one}) for one in forms]
    assert len({body["choices"][0]["text"] for _, body in answers}) == 1
    assert {body["usage"]["prompt_tokens"] for _, body in answers} == {len(ids)}


async def test_logprobs_are_of_every_emitted_token_with_exact_bytes(client: Any, chat: Any) -> None:
    asked = chat(logprobs=True, top_logprobs=3)
    _, found = await client.post("/v1/chat/completions", asked)
    entries = found["choices"][0]["logprobs"]["content"]
    assert len(entries) == found["usage"]["completion_tokens"]
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] <= 0
        assert entry["top_logprobs"][0]["logprob"] >= entry["top_logprobs"][1]["logprob"]
    spelled = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert spelled.decode("utf-8", "replace") == found["choices"][0]["message"]["content"]


async def test_a_stop_string_ends_the_text_before_it(client: Any, chat: Any) -> None:
    _, plain = await client.post("/v1/chat/completions", chat(max_tokens=24))
    content = plain["choices"][0]["message"]["content"]
    stop = content[5:7]
    _, cut = await client.post("/v1/chat/completions", chat(max_tokens=24, stop=stop))
    assert cut["choices"][0]["message"]["content"] == content[: content.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"


async def test_a_context_too_long_is_400_with_both_numbers(client: Any, chat: Any) -> None:
    for body in (chat("fox " * 400), chat(max_tokens=5000)):
        status, found = await client.post("/v1/chat/completions", body)
        assert status == 400
        assert found["error"]["code"] == "context_length_exceeded"
        assert "256" in found["error"]["message"]
        numbers = [int(word) for word in _numbers(found["error"]["message"])]
        assert any(number > 256 for number in numbers)


def _numbers(text: str) -> list[str]:
    import re

    return re.findall(r"\d+", text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 2**31}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"frequency_penalty": 99}, "frequency_penalty"),
        ({"spillway": {"nosuch": 1}}, "spillway.nosuch"),
        ({"spillway": {"speculation": {"sources": ["nosuch"]}}}, None),
        ({"prediction": {"type": "content", "content": "fox " * 2000}}, "prediction"),
        ({"min_tokens": 99, "max_tokens": 3}, "min_tokens"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ],
)
async def test_a_bad_field_is_400_and_the_next_request_works(
    client: Any, chat: Any, fields: dict[str, Any], param: str | None
) -> None:
    status, found = await client.post("/v1/chat/completions", chat(**fields))
    assert status == 400, found
    assert set(found["error"]) == {"message", "type", "param", "code"}
    if param is not None:
        assert found["error"]["param"] == param
    status, _ = await client.post("/v1/chat/completions", chat(max_tokens=2))
    assert status == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000],
)
async def test_a_body_that_is_no_json_object_is_400(client: Any, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    async with client.session.post("/v1/completions", data=raw, headers=headers) as response:
        assert response.status == 400
        assert "error" in await response.json()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_completion_tokens": 5000, "max_tokens": None}, "max_completion_tokens"),
        ({"content": "fox " * 400}, "messages"),
    ],
)
async def test_the_field_that_exceeds_the_context_is_named(
    client: Any, chat: Any, fields: Any, param: str
) -> None:
    status, found = await client.post("/v1/chat/completions", chat(**fields))
    assert (status, found["error"]["param"]) == (400, param)


async def test_a_text_completion_names_its_own_fields(client: Any) -> None:
    for fields, param in (
        ({"prompt": "fox", "max_tokens": 5000}, "max_tokens"),
        ({"prompt": "fox " * 400}, "prompt"),
    ):
        status, found = await client.post("/v1/completions", {"model": "large", **fields})
        assert (status, found["error"]["param"]) == (400, param)


async def test_a_body_too_large_is_413(client: Any) -> None:
    body = {"model": "large", "prompt": "x" * (9 * 1024 * 1024)}
    status, found = await client.post("/v1/completions", body)
    assert status == 413
    assert found["error"]["message"]


async def test_a_large_prompt_is_tokenised_beside_the_loop(client: Any) -> None:
    body = {"model": "large", "prompt": "fox " * 200_000, "max_tokens": 1}
    status, found = await client.post("/v1/completions", body)
    assert status == 400
    assert found["error"]["code"] == "context_length_exceeded"


async def test_unknown_routes_and_methods_keep_the_error_shape(client: Any) -> None:
    status, found = await client.get("/v1/nosuch")
    assert (status, set(found["error"])) == (404, {"message", "type", "param", "code"})
    status, found = await client.get("/v1/completions")
    assert status == 405


async def test_metrics_agree_with_receipts(client: Any, chat: Any) -> None:
    names = ("drafted_tokens", "accepted_tokens", "output_tokens", "drafts")
    samples = {name: f"spillway_engine_{name}_total" for name in names}
    before = {n: await client.metric(s, model="large") for n, s in samples.items()}
    asked = chat(
        "fox " * 20, max_tokens=40, spillway={"receipt": True, "speculation": {"mode": "fixed"}}
    )
    _, found = await client.post("/v1/chat/completions", asked)
    after = {n: await client.metric(s, model="large") for n, s in samples.items()}
    receipt = found["spillway"]
    assert after["drafted_tokens"] - before["drafted_tokens"] == receipt["drafted"]
    assert after["accepted_tokens"] - before["accepted_tokens"] == receipt["accepted"]
    assert after["output_tokens"] - before["output_tokens"] == receipt["output_tokens"]
    assert receipt["accepted"] <= receipt["drafted"]
    assert after["drafts"] > before["drafts"]


async def test_requests_with_one_prefix_share_it_unless_their_salts_differ(
    client: Any, chat: Any
) -> None:
    long = "the quick brown fox jumps over the lazy dog " * 6
    cached = []
    for salt in ("a", "a", "b"):
        _, found = await client.post("/v1/chat/completions", chat(long, cache_salt=salt))
        cached.append(found["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] == cached[2] == 0
    assert cached[1] > 0
