"""A gateway of our own to measure: started on a free port, stopped at the end."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def served(config: Path, patience_s: float = 120) -> Iterator[str]:
    """URL of a ready gateway with a fresh state directory.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message holds its log.
    """
    with tempfile.TemporaryDirectory() as state:
        port = _free_port()
        environment = os.environ | {"SPILLWAY_PORT": str(port), "SPILLWAY_STATE_DIR": state}
        command = [str(Path(sys.executable).parent / "spillway"), "serve", "--config", str(config)]
        log = Path(state) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        try:
            _await_ready(process, f"http://127.0.0.1:{port}/readyz", log, patience_s)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _await_ready(
    process: "subprocess.Popen[bytes]", url: str, log: Path, patience_s: float
) -> None:
    give_up = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < give_up:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the gateway did not become ready:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
