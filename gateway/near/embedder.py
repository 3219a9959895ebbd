"""Texts to vectors in a process beside the event loop; it may be slow, full or dead at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import sys
from pathlib import Path
from typing import Protocol

import numpy as np

from gateway.near.sentences import Vector

MAX_TEXT_BYTES = 8 * 1024
_MAX_VECTOR_BYTES = 64 * 1024
_WAITING = 64  # texts that wait; more are not embedded
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """What makes vectors of texts."""

    async def embed(self, text: str) -> Vector | None:
        """The direction of ``text``; None when it cannot be had."""
        ...


class ProcessEmbedder:
    """One child process that embeds one text at a time; started anew when it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._queue: asyncio.Queue[tuple[bytes, asyncio.Future[Vector | None]]] = asyncio.Queue(
            _WAITING
        )
        self._work = asyncio.create_task(self._run())

    async def embed(self, text: str) -> Vector | None:
        """See ``Embedder``. A text longer than 8 KiB is taken by its last 8 KiB."""
        answer: asyncio.Future[Vector | None] = asyncio.get_running_loop().create_future()
        raw = text.encode("utf-8", "replace")[-MAX_TEXT_BYTES:]
        try:
            self._queue.put_nowait((raw, answer))
        except asyncio.QueueFull:
            return None
        return await answer

    async def aclose(self) -> None:
        """End the process."""
        self._work.cancel()
        await asyncio.wait({self._work})
        while not self._queue.empty():
            _settle(self._queue.get_nowait()[1], None)

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            process = await self._start()
            try:
                if await self._serve(process):
                    pause_s = _FIRST_PAUSE_S
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            _log.warning("the embedder ended (%s); near hits rest", process.returncode)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _start(self) -> asyncio.subprocess.Process:
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.near",
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **quiet},
        )

    async def _serve(self, process: asyncio.subprocess.Process) -> bool:
        """Until the process is gone; whether it ever answered."""
        answered = False
        while True:
            text, answer = await self._queue.get()
            if answer.done():  # nobody waits any more
                continue
            try:
                _settle(answer, await _ask(process, text))
            except (OSError, ValueError, EOFError):
                _settle(answer, None)
                return answered
            except BaseException:
                _settle(answer, None)
                raise
            answered = True


async def _ask(process: asyncio.subprocess.Process, text: bytes) -> Vector:
    """Raises EOFError (asyncio.IncompleteReadError), OSError or ValueError when it is gone."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(struct.pack("<I", len(text)) + text)
    await process.stdin.drain()
    length = struct.unpack("<I", await process.stdout.readexactly(4))[0]
    if length > _MAX_VECTOR_BYTES or length % 4:
        raise ValueError(f"got a vector of {length} bytes")
    return np.frombuffer(await process.stdout.readexactly(length), dtype="<f4")


def _settle(answer: asyncio.Future[Vector | None], vector: Vector | None) -> None:
    if not answer.done():
        answer.set_result(vector)
