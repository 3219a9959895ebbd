"""Log-probs of a prompt are those of one plain forward over it, however it was computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.tree_attention import Rows
from verifier.errors import RequestRefused
from verifier.loading import LoadedModel
from verifier.request import Speculation, StopRules
from verifier.rows import ContextRows, ragged

PROMPT = tuple(range(10, 50))


def expected(model: LoadedModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probs [P - 1, V] of everything that could follow each token but the last."""
    rows = ContextRows(model.network.cache_shape)
    rows.ensure(1, len(tokens))
    request = Rows(0, 0, list(range(-1, len(tokens) - 1)), len(tokens))
    logits = model.network.forward(ragged([request], [tokens], rows.capacity), rows, None)
    return torch.log_softmax(logits, dim=-1)[:-1]


def check(found: Any, model: LoadedModel, tokens: tuple[int, ...], width: int) -> None:
    wanted = expected(model, tokens)
    assert [one.token_id for one in found] == list(tokens[1:])
    for row, one in enumerate(found):
        assert one.logprob == pytest.approx(wanted[row, one.token_id].item(), abs=1e-3)
        best = wanted[row].topk(width).values.tolist()
        assert [score for _, score in one.top] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("step_tokens", [7, 256, None])
@pytest.mark.parametrize("mode", ["off", "fixed"])
def test_they_come_once_with_the_first_output_and_change_no_text(
    llama: LoadedModel, drive: Any, step_tokens: int | None, mode: str
) -> None:
    engine = drive.engine(llama, step_tokens=step_tokens, page_size=8)
    speculation = Speculation(mode=mode)  # type: ignore[arg-type]
    [plain] = drive.run(engine, drive.request(PROMPT, speculation=speculation))
    asked = drive.request(PROMPT, prompt_logprobs=3, speculation=speculation)
    neighbour = drive.request(PROMPT[:30], name="neighbour", speculation=speculation)
    [outputs, _] = drive.run(engine, asked, neighbour)
    assert drive.tokens(outputs) == drive.tokens(plain)
    check(outputs[0].prompt_logprobs, llama, PROMPT, 3)
    assert all(output.prompt_logprobs == () for output in outputs[1:])
    assert outputs[-1].receipt.cached_prompt_tokens == 0, "every row was computed"


def test_a_request_may_want_nothing_but_its_prompt_scored(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama)
    stops = StopRules(max_tokens=0)
    [[output]] = drive.run(engine, drive.request(PROMPT, prompt_logprobs=0, stops=stops))
    assert (output.tokens, output.text, output.finish_reason) == ((), "", "length")
    assert output.receipt.output_tokens == 0
    check(output.prompt_logprobs, llama, PROMPT, 0)
    assert engine.stats().models["llama"].pages_used == 0
    [[lone]] = drive.run(engine, drive.request((5,), prompt_logprobs=0, stops=stops))
    assert lone.prompt_logprobs == ()
    with pytest.raises(RequestRefused, match="at least 1"):
        engine.submit(drive.request(PROMPT, stops=stops))


def test_being_set_back_repeats_none_of_them(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama, page_size=4, pages=20, step_tokens=16)
    requests = [
        drive.request(PROMPT[:size], name=str(size), tokens=40, prompt_logprobs=1)
        for size in (30, 31, 32, 33)
    ]
    together = drive.run(engine, *requests)
    assert engine.stats().models["llama"].preemptions > 0
    for request, outputs in zip(requests, together, strict=True):
        found = [one for output in outputs for one in output.prompt_logprobs]
        check(found, llama, request.prompt, 1)
