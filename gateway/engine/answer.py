"""The engine's steps as a response: one body, or one event for each verification step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from aiohttp import web

from gateway.engine.intake import Batch
from gateway.engine.receipts import receipt_json, usage_of
from gateway.engine.tokens import Served
from gateway.engine.worker import EngineFailed, Outputs
from gateway.errors import ApiError
from gateway.generation import Delta, Json, Usage
from gateway.wire.completion import CompletionRequest
from gateway.wire.fields import CommonRequest
from gateway.wire.render import Chunks, Head, dump, gather, whole_body
from gateway.wire.stream import send_events
from verifier.request import DecodeReceipt, StepOutput


@dataclass(slots=True)
class Answer:
    """One request on its way out: turns steps into deltas and collects the receipts."""

    wanted: CommonRequest
    served: Served
    batch: Batch
    head: Head
    _receipts: dict[int, DecodeReceipt] = field(default_factory=dict)

    async def deltas(self, outputs: Outputs) -> AsyncGenerator[Delta]:
        """One delta for each step that has something to say."""
        scored = self._echoes_with_logprobs()
        waiting = dict(enumerate(self.batch.echoes)) if scored else {}
        for index, text in enumerate(() if scored else self.batch.echoes):
            yield Delta(choice=index, text=text)
        async for output in outputs:
            index = self.batch.index_of(output.request_id, output.choice)
            if index in waiting:
                yield self._echo(index, waiting.pop(index), output)
            delta = self._delta(index, output)
            if delta.text or delta.logprobs or delta.finish_reason:
                yield delta

    def _echoes_with_logprobs(self) -> bool:
        asked = isinstance(self.wanted, CompletionRequest) and self.wanted.logprobs is not None
        return asked and bool(self.batch.echoes)

    def _echo(self, index: int, text: str, first: StepOutput) -> Delta:
        """A prompt with the log-probs that came with the first step of its choice."""
        opening = self.served.first_entry(self.batch.requests[index].prompt[0])
        entries = [self.served.logprob_entry(one) for one in first.prompt_logprobs]
        return Delta(choice=index, text=text, logprobs=(opening, *entries))

    def _delta(self, index: int, output: StepOutput) -> Delta:
        if output.receipt is not None:
            self._receipts[index] = output.receipt
        entries = [self.served.logprob_entry(one) for one in output.logprobs]
        return Delta(
            choice=index,
            text=output.text,
            logprobs=tuple(entries) if entries else None,
            finish_reason=output.finish_reason,
        )

    def usage(self) -> Usage:
        """Of all choices that have finished."""
        return usage_of(self._in_order(), self.batch.choices)

    def receipt(self) -> Json:
        """What goes under `spillway`, None unless asked for."""
        if self.wanted.spillway is None or not self.wanted.spillway.receipt:
            return None
        return receipt_json(self._in_order(), self.batch.choices)

    def _in_order(self) -> list[DecodeReceipt]:
        return [self._receipts[index] for index in sorted(self._receipts)]


async def whole(answer: Answer, outputs: Outputs) -> web.Response:
    """The whole answer in one body.

    Raises:
        ApiError: 503, the engine stopped.
    """
    try:
        deltas = [delta async for delta in answer.deltas(outputs)]
    except EngineFailed as error:
        raise _stopped(error) from None
    body = whole_body(
        answer.head,
        gather(deltas, len(answer.batch.requests)),
        answer.usage(),
        fingerprint=answer.served.fingerprint,
        receipt=answer.receipt(),
    )
    return web.Response(body=dump(body), content_type="application/json")


async def streamed(request: web.Request, answer: Answer, outputs: Outputs) -> web.StreamResponse:
    """The answer as events. The status goes out with the first step, errors after it in-band.

    Raises:
        ApiError: 503, the engine stopped before the first step.
    """
    async with aclosing(_frames(answer, outputs)) as frames:
        first = await anext(frames)
        return await send_events(request, _after(first, frames), {})


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for frame in rest:
        yield frame


async def _frames(answer: Answer, outputs: Outputs) -> AsyncGenerator[bytes]:
    options = answer.wanted.stream_options
    chunks = Chunks(
        answer.head,
        include_usage=bool(options and options.include_usage),
        obfuscate=bool(options and options.include_obfuscation),
    )
    pending = chunks.opening(len(answer.batch.requests))
    try:
        async for delta in answer.deltas(outputs):
            yield b"".join([*pending, *chunks.more(delta)])
            pending = []
    except EngineFailed as error:
        raise _stopped(error) from None
    usage, receipt = answer.usage(), answer.receipt()
    closing = chunks.closing(usage, fingerprint=answer.served.fingerprint, receipt=receipt)
    yield b"".join([*pending, *closing])


def _stopped(error: EngineFailed) -> ApiError:
    return ApiError(
        503,
        f"The answer cannot be completed: {error}.",
        type="server_error",
        code="engine_stopped",
        headers={"retry-after": "1"},
    )
