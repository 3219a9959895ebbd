"""A model server that answers at once, in OpenAI's words, and counts how often it was asked."""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

WORDS = 24
_pause_s = 0.0
_asked = 0


async def chat(request: web.Request) -> web.StreamResponse:
    """A stream of words, or with `stream: false` all of them at once."""
    global _asked
    body = await request.json()
    _asked += 1
    if not body.get("stream"):
        return web.json_response(_whole(body))
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    if not _pause_s:
        await response.write(b"".join(map(_chunk, range(WORDS))))
    else:
        for at in range(WORDS):
            await asyncio.sleep(_pause_s)
            await response.write(_chunk(at))
    usage = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
    last = json.dumps({"choices": [], "usage": usage}).encode()
    await response.write(b"data: " + last + b"\n\ndata: [DONE]\n\n")
    return response


def _chunk(at: int) -> bytes:
    reason = "stop" if at == WORDS - 1 else None
    choice = {"index": 0, "delta": {"content": f"word{at} "}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def _whole(body: dict[str, object]) -> dict[str, object]:
    text = "".join(f"word{at} " for at in range(WORDS))
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
    }  # fmt: skip


async def asked(request: web.Request) -> web.Response:
    """How often it was asked."""
    return web.json_response(_asked)


def main() -> None:
    """Serve on the port given first, with the pause between words given second, in seconds."""
    global _pause_s
    _pause_s = float(sys.argv[2])
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/asked", asked)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=lambda *_: None)


if __name__ == "__main__":
    main()
