"""The command line as a user meets it, and real processes behind `spillway serve`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from gateway.cli import build_parser, main
from gateway.commands.engine import as_arguments

WITHIN_S = 240.0  # for starting two processes on a busy machine


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield one
                yield from _commands(one)


def test_every_command_and_every_option_is_explained() -> None:
    commands = list(_commands(build_parser()))
    assert len(commands) >= 10
    for command in commands:
        assert command.description, command.prog
        for action in command._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action


def test_a_new_key_is_let_in_by_the_entry_printed_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.keys import load_keys

    arguments = ["keys", "new", "--tenant", "acme", "--role", "metrics", "--allow-model", "brook"]
    assert main(arguments) == 0
    key, _, entry = capsys.readouterr().out.partition("\n")
    assert hashlib.sha256(key.encode()).hexdigest() in entry
    path = tmp_path / "keys.toml"
    path.write_text(entry)
    identity = load_keys(path, b"s" * 32).identify(f"Bearer {key}")
    assert (identity.tenant, identity.roles) == ("acme", {"metrics"})
    assert identity.allowed_models == {"brook"}
    assert main(arguments) == 0
    assert capsys.readouterr().out.partition("\n")[0] != key


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["serve", "--config", "/nosuch.toml"], 78, "/nosuch.toml"),
        (["keys", "new", "--role", "emperor"], 78, "emperor"),
        (["keys", "new", "--tenant", "a b"], 78, "a b"),
        (["admin", "get", "--url", "file:///etc/passwd"], 78, "http"),
        (["admin", "get", "--url", "http://127.0.0.1:9"], 1, "no gateway"),
        (["admin", "set", "brook", "start=high"], 78, "start=high"),
    ],
)
def test_a_fault_is_one_line_and_a_status(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["engine"], ["engine", "--config", "x"], ["engine", "--config", "x", "--model", "a=b"], []],
)
def test_options_that_do_not_fit_together_show_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_an_engine_is_told_all_it_was_asked() -> None:
    given = ["--model", "a=b", "--model", "c=d", "--draft", "c", "--threads", "2"]
    given += ["--device", "cpu", "--socket", "/x", "--end-with-stdin"]
    again = as_arguments(build_parser().parse_args(["engine", *given]))
    assert " ".join(again).startswith("--model a=b --model c=d --dtype float32 --draft c")
    assert again[-1] == "--end-with-stdin"
    options = build_parser().parse_args(["engine", *again])
    assert options.model == ["a=b", "c=d"]
    assert options.socket == Path("/x")


WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "verifier", "drafting", "kernels"}:
            raise ImportError(f"{name} is absent")

sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
import gateway

for found in pkgutil.walk_packages(gateway.__path__, "gateway."):
    if not found.name.startswith("gateway.engine"):
        importlib.import_module(found.name)
from gateway.cli import main
from gateway.app import create_app
main(["keys", "new"])
print("loaded", len([name for name in sys.modules if name.startswith("gateway")]))
"""


def test_the_front_end_runs_with_torch_absent() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 30


class Serving:
    """`spillway serve` as a process, with one engine of its own."""

    def __init__(self, folder: Path, ladder: Path, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        config = folder / "spillway.toml"
        config.write_text(_CONFIG.format(ladder=ladder, port=port))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def until(self, check: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not check():
            assert time.monotonic() < deadline, f"{what}:\n{self.log.read_text()}"
            time.sleep(0.05)

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.base + path, timeout=30) as response:
                return int(response.status)
        except HTTPError as error:
            return error.code
        except URLError:
            return 0

    def ask(self, model: str, **fields: Any) -> Any:
        messages = [{"role": "user", "content": "the quick brown fox"}]
        body = {"model": model, "messages": messages, "max_tokens": 5, **fields}
        request = urllib.request.Request(
            f"{self.base}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        return urllib.request.urlopen(request, timeout=60)

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(FileNotFoundError):
            return [int(pid) for pid in listed.read_text().split()]
        return []


_CONFIG = """
[server]
port = {port}
[[engines]]
name = "local"
threads = 1
models = [
  {{ name = "small", path = "{ladder}/small" }},
  {{ name = "large", path = "{ladder}/large", draft = {{ model = "small" }} }},
]
[[tiers]]
name = "small"
url = "engine:local"
[[tiers]]
name = "large"
url = "engine:local"
"""


@pytest.fixture
def serving(tmp_path: Path, tiny_ladder: Path, free_port: Any) -> Iterator[Serving]:
    running = Serving(tmp_path, tiny_ladder, free_port())
    yield running
    children = running.children()
    running.process.kill()
    running.process.wait()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _gone(pid: int) -> bool:
    """Ended, even if its parent has not asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_serve_lives_through_its_engine_s_death_and_leaves_nothing_behind(
    serving: Serving,
) -> None:
    """One life of the command: start, answer, lose the engine, get it back, stop on Ctrl-C."""
    serving.until(lambda: serving.status("/livez") == 200, "the listener")
    serving.until(lambda: serving.status("/readyz") == 200, "readiness")
    serving.until(lambda: "Ready: " in serving.log.read_text(), "the greeting")
    with serving.ask("auto") as response:
        assert json.load(response)["choices"][0]["message"]["role"] == "assistant"
    [engine] = serving.children()

    os.kill(engine, signal.SIGKILL)
    serving.until(lambda: serving.status("/readyz") == 503, "unreadiness")
    with pytest.raises(HTTPError) as away:
        serving.ask("large")
    assert away.value.code == 503
    assert away.value.headers["retry-after"]
    serving.until(lambda: serving.status("/readyz") == 200, "the engine's return")
    [engine] = serving.children()

    with serving.ask("large", stream=True, max_tokens=200, ignore_eos=True) as response:
        response.readline()
        serving.process.send_signal(signal.SIGINT)
        rest = response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert serving.process.wait(timeout=WITHIN_S) == 0
    assert _gone(engine)


@pytest.mark.full
def test_killing_serve_takes_its_engine_along(serving: Serving) -> None:
    serving.until(lambda: serving.status("/readyz") == 200, "readiness")
    [engine] = serving.children()
    serving.process.kill()
    serving.process.wait()
    serving.until(lambda: _gone(engine), "the engine's end")


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path, tiny_ladder: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = Serving(tmp_path, tiny_ladder, taken.getsockname()[1])
        assert running.process.wait(timeout=WITHIN_S) == 78
    assert "cannot be listened on" in running.log.read_text()
    assert "Traceback" not in running.log.read_text()
