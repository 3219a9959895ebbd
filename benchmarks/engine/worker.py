"""A process for each program that is measured, so that its peak memory is its own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Methods = Mapping[str, Callable[..., Any]]
Build = Callable[..., Methods]
_PRELOADED = ["benchmarks.engine.ours", "benchmarks.engine.theirs"]
_PROCESS = Path("/proc/self")


class WorkerFailed(Exception):
    """A measured program raised; the message is its traceback."""


class Worker(Protocol):
    """Where methods run; ``peaks`` are the most bytes resident while each of them ran."""

    peaks: dict[str, int]

    def call(self, name: str, *arguments: Any) -> Any:
        """Run one of the methods and return what it returns."""
        ...


class Reply(NamedTuple):
    """What came of one call."""

    value: Any
    peak: int
    error: str | None = None


class LocalWorker:
    """In this very process: quick to start, but memory is everybody's."""

    def __init__(self, threads: int, build: Build, *arguments: Any) -> None:
        import torch

        torch.set_num_threads(threads)
        self.peaks: dict[str, int] = {}
        self._methods = build(*arguments)

    def call(self, name: str, *arguments: Any) -> Any:
        """See ``Worker``."""
        reply = _measured(self._methods[name], arguments)
        self.peaks[name] = max(self.peaks.get(name, 0), reply.peak)
        return reply.value


class ProcessWorker:
    """In a process that has imported torch already and loads only its own models."""

    def __init__(self, threads: int, build: Build, *arguments: Any) -> None:
        self.peaks: dict[str, int] = {}
        context = get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, threads, build, arguments))
        self._process.start()
        other.close()

    def call(self, name: str, *arguments: Any) -> Any:
        """See ``Worker``.

        Raises:
            WorkerFailed: the method, or the building of what it works with, raised.
        """
        self._pipe.send((name, arguments))
        try:
            reply: Reply = self._pipe.recv()
        except EOFError as error:
            raise WorkerFailed(f"the process ended during {name!r}") from error
        if reply.error is not None:
            raise WorkerFailed(reply.error)
        self.peaks[name] = max(self.peaks.get(name, 0), reply.peak)
        return reply.value

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()


@contextmanager
def process_worker(threads: int, build: Build, *arguments: Any) -> Iterator[Worker]:
    """A ``ProcessWorker`` that ends with the block."""
    worker = ProcessWorker(threads, build, *arguments)
    try:
        yield worker
    finally:
        worker.close()


def _serve(pipe: Connection, threads: int, build: Build, arguments: tuple[Any, ...]) -> None:
    """Answer calls until the other end closes."""
    import torch

    torch.set_num_threads(threads)
    methods: Methods = {}
    broken: str | None = None
    try:
        methods = build(*arguments)
    except Exception:  # told to whoever calls first
        broken = traceback.format_exc()
    while True:
        try:
            name, given = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(Reply(None, 0, broken) if broken else _measured(methods[name], given))
        except Exception:
            pipe.send(Reply(None, 0, traceback.format_exc()))


def _measured(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Reply:
    _forget_peak()
    value = method(*arguments)
    return Reply(value, _peak_bytes())


def _forget_peak() -> None:
    """Let the high-water mark begin anew at what is resident now (Linux, proc(5))."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    """Most bytes resident since ``_forget_peak``; 0 where the system does not say."""
    try:
        status = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split() for line in status if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else 0
