"""The supervisor over small real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load_config
from gateway.tiers.fleet import running_fleet
from gateway.tiers.supervisor import Supervisor

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
sys.stdin.read()
time.sleep(3600)
"""


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program)]


async def _until(check: Any) -> None:
    async with asyncio.timeout(240):
        while not check():  # noqa: ASYNC110 - other processes' doing
            await asyncio.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_process_that_ends_is_started_again_and_its_end_is_told() -> None:
    ended = 0

    def count() -> None:
        nonlocal ended
        ended += 1

    supervisor = Supervisor("e", _python("import time; time.sleep(3600)"), on_exit=count)
    supervisor.start()
    await _until(lambda: supervisor.pid)
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await _until(lambda: supervisor.pid not in (None, first))
    assert (ended, supervisor.restarts) == (1, 1)
    second = supervisor.pid
    assert second is not None
    await supervisor.stop()
    assert _gone(second)
    assert supervisor.pid is None


async def test_a_program_that_cannot_be_started_is_tried_again_and_can_be_stopped() -> None:
    supervisor = Supervisor("e", ["/nosuch/program"])
    supervisor.start()
    await _until(lambda: supervisor.restarts > 0)
    await supervisor.stop()


async def test_one_that_ignores_sigterm_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    supervisor = Supervisor("stubborn", _python(STUBBORN), stop_within_s=0.2)
    supervisor.start()
    await _until(lambda: "[engine stubborn] up" in caplog.text)
    pid = supervisor.pid
    assert pid is not None
    await supervisor.stop()
    assert _gone(pid)


async def test_a_flood_of_log_never_blocks_the_child(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    flood = """
    import sys
    sys.stdout.write("x" * 1_000_000 + "\\n")
    print("\\u00e9 after", flush=True)
    sys.stdin.read()
    """
    supervisor = Supervisor("loud", _python(flood))
    supervisor.start()
    await _until(lambda: "after" in caplog.text)
    await supervisor.stop()


async def test_secrets_of_the_front_end_stay_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("SPILLWAY_SECRET", "s3cret")
    monkeypatch.setenv("SPILLWAY_ADMIN_TOKEN", "t0ken")
    supervisor = Supervisor("e", _python("import os, sys; print(os.environ); sys.stdin.read()"))
    supervisor.start()
    await _until(lambda: "environ" in caplog.text)
    await supervisor.stop()
    assert "s3cret" not in caplog.text
    assert "t0ken" not in caplog.text


def test_a_child_sees_the_end_of_its_stdin_when_the_supervisor_is_killed() -> None:
    parent = """
    import asyncio, sys
    from gateway.tiers.supervisor import Supervisor
    async def main():
        child = Supervisor("c", [sys.executable, "-c", "import sys; sys.stdin.read()"])
        child.start()
        while child.pid is None:
            await asyncio.sleep(0.01)
        print(child.pid, flush=True)
        await asyncio.sleep(3600)
    asyncio.run(main())
    """
    process = subprocess.Popen(_python(parent), stdout=subprocess.PIPE, cwd=os.getcwd())
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        asyncio.run(_until(lambda: _gone(child)))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


async def test_a_remote_engine_is_not_started_here(shared_engine: Any, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[[engines]]\nname = "far"\n[[tiers]]\nname = "large"\nurl = "engine:far"\n')
    environ = {"SPILLWAY_ENGINE_URL": shared_engine.base}  # with or without /v1
    async with running_fleet(load_config(config, environ)) as fleet:
        assert fleet.supervisors == ()
        assert not fleet.ready()
        await _until(fleet.ready)
        assert fleet.tiers[0].max_model_len == 256


async def test_an_engine_that_refuses_its_configuration_is_given_up_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = "print('got 1 page; expected 2', flush=True); raise SystemExit(78)"
    supervisor = Supervisor("e", _python(program))
    supervisor.start()
    await _until(lambda: supervisor.refused is not None)
    assert supervisor.refused == "got 1 page; expected 2"
    assert supervisor.restarts == 3
    await asyncio.sleep(0.6)
    assert supervisor.restarts == 3
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [
        "engine e is given up, restart to try again: got 1 page; expected 2"
    ]
    await supervisor.stop()


async def test_an_engine_that_fails_otherwise_is_never_given_up(tmp_path: Path) -> None:
    """Two refusals, another failure, two refusals: it may still recover."""
    counter = tmp_path / "count"
    program = f"""
    from pathlib import Path
    file = Path({str(counter)!r})
    count = int(file.read_text()) if file.exists() else 0
    file.write_text(str(count + 1))
    raise SystemExit(70 if count == 2 else 78)
    """
    supervisor = Supervisor("e", _python(program))
    supervisor.start()
    await _until(lambda: supervisor.restarts == 5)
    assert supervisor.refused is None
    await supervisor.stop()
