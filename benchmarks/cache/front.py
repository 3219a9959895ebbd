"""Front ends to measure: `spillway serve` over a model server that answers at once."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

SECRET = "b" * 64
MODEL = "only"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """A process whose output goes to ``log``."""
    with log.open("wb") as sink:
        return subprocess.Popen(
            command, env=os.environ | environment, stdout=sink, stderr=sink,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def await_url(
    url: str, process: subprocess.Popen[bytes], log: Path, patience_s: float = 90
) -> None:
    """Until ``url`` answers 200; a process that ended instead is an error with its log."""
    give_up = time.monotonic() + patience_s
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(URLError, OSError), urlopen(url, timeout=2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def upstream(folder: Path, pause_s: float = 0.0) -> Iterator[str]:
    """The model server; yields its base URL."""
    port = free_port()
    log = folder / f"upstream-{port}.log"
    process = start(
        [sys.executable, "-m", "benchmarks.cache.upstream", str(port), str(pause_s)], log
    )
    try:
        await_url(f"http://127.0.0.1:{port}/asked", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class FrontEnd:
    """One `spillway serve`."""

    def __init__(self, folder: Path, upstream_url: str, redis_url: str, cache: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._state = folder / f"front-{self.port}"
        self._state.mkdir()
        self._log = self._state / "log"
        config = self._state / "spillway.toml"
        config.write_text(
            f'[redis]\nurl = "{redis_url}"\n[cache]\n{cache}\n[[tiers]]\nname = "{MODEL}"\n'
            f'url = "{upstream_url}/v1"\nrevision = "1"\n'
        )
        program = str(Path(sys.executable).parent / "spillway")
        self.process = start(
            [program, "serve", "--config", str(config)], self._log,
            SPILLWAY_PORT=str(self.port), SPILLWAY_SECRET=SECRET,
            SPILLWAY_STATE_DIR=str(self._state),
        )  # fmt: skip

    def wait(self) -> FrontEnd:
        """Until it is ready."""
        await_url(f"{self.url}/readyz", self.process, self._log)
        return self

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait()
