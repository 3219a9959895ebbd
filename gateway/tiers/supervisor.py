"""Keeps one local engine process alive, and takes it along when we go, however we go."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 15.0
_LIVED_WELL_S = 30.0
"""A process that ran for so long starts anew without a pause, whatever ended it."""
_LONGEST_LINE = 64 * 1024
BAD_CONFIG = 78
"""Exit status of an engine that cannot serve what it is told to; trying again changes nothing."""
_MOST_REFUSALS = 3  # in a row: memory that its predecessor still held may be free by then
_log = logging.getLogger(__name__)


def engine_command(config: Path, name: str, socket: Path) -> list[str]:
    """How to run the entry ``name`` of the configuration file ``config`` on ``socket``."""
    module = [sys.executable, "-m", "gateway.cli", "engine"]
    options = ["--config", str(config), "--engine", name, "--socket", str(socket)]
    return [*module, *options, "--end-with-stdin"]


class Supervisor:
    """Runs ``command`` again whenever it ends. Its stdin stays open: EOF there means we died.

    One that refuses its configuration three times in a row is given up; ``refused`` says why.

    The child has a session of its own, so that Ctrl-C reaches it through ``stop`` only, after the
    requests that still use it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        stop_within_s: float = 20.0,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.refused: str | None = None
        self._command = command
        self._stop_within_s = stop_within_s
        self._on_exit = on_exit
        self._last_line = ""
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process, None between two."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to keep the process alive."""
        self._task = asyncio.create_task(self._keep_alive(), name=f"supervise {self.name}")

    async def stop(self) -> None:
        """SIGTERM, time to finish, SIGKILL; the process is gone on return."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def _keep_alive(self) -> None:
        pause_s, refusals = _FIRST_PAUSE_S, 0
        while True:
            began = time.monotonic()
            status = await self._run_once()
            self._on_exit()
            self.restarts += 1
            refusals = refusals + 1 if status == _described(BAD_CONFIG) else 0
            if refusals >= _MOST_REFUSALS:
                self._give_up()
                return
            if time.monotonic() - began > _LIVED_WELL_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning("engine %s ended (%s); next start in %gs", self.name, status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _give_up(self) -> None:
        self.refused = self._last_line or "it refused its configuration"
        _log.error("engine %s is given up, restart to try again: %s", self.name, self.refused)

    async def _run_once(self) -> str:
        """Start the process and wait for its end; cancelled, end it first."""
        try:
            self._process = await self._spawn()
        except OSError as error:
            return f"not started: {error.strerror}"
        process = self._process
        relay = asyncio.create_task(self._relay(process.stdout))
        try:
            return _described(await process.wait())
        finally:
            await self._end(process)
            await asyncio.wait({relay}, timeout=1.0)
            relay.cancel()
            self._process = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE,
            start_new_session=True,
            env=_environment(),
        )

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._stop_within_s):
                await process.wait()
        except TimeoutError:
            _log.warning("engine %s did not stop; killing it", self.name)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _relay(self, lines: asyncio.StreamReader | None) -> None:
        """Its log becomes ours, line by line, so that its pipe never fills."""
        assert lines is not None
        while True:
            try:
                line = await lines.readline()
            except ValueError:  # longer than the limit: dropped
                continue
            if not line:
                return
            self._last_line = line.decode("utf-8", "replace").rstrip()
            _log.info("[engine %s] %s", self.name, self._last_line)


def _environment() -> dict[str, str]:
    """What the child needs; secrets of the front end are not among it."""
    withheld = ("SPILLWAY_SECRET", "SPILLWAY_ADMIN_TOKEN", "SPILLWAY_REDIS_URL")
    return {key: value for key, value in os.environ.items() if key not in withheld}


def _described(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
