"""The audit log cannot be changed without it showing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from gateway.admin.audit import AuditLog, verify


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    made = AuditLog(tmp_path / "state" / "audit.jsonl", clock=lambda: 12.0)
    for number in range(5):
        made.append({"action": "PUT", "version": number, "actor": "ü"})
    return made


def test_the_chain_holds_over_restarts(log: AuditLog) -> None:
    AuditLog(log.path).append({"action": "PUT", "version": 9})
    assert verify(log.path) == 6


def test_only_its_owner_may_read_it(log: AuditLog) -> None:
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", range(4))
def test_a_line_removed_moved_or_changed_shows(log: AuditLog, number: int) -> None:
    lines = log.path.read_text().splitlines(keepends=True)
    without = lines[:number] + lines[number + 1 :]
    swapped = [*lines]
    swapped[number], swapped[number + 1] = swapped[number + 1], swapped[number]
    changed = [*lines]
    changed[number] = changed[number].replace('"PUT"', '"GET"')
    again = lines[: number + 1] + lines[number:]
    for tampered in (without, swapped, changed, again):
        log.path.write_text("".join(tampered))
        with pytest.raises(ValueError, match="line"):
            verify(log.path)


def test_a_line_cut_short_shows_and_later_ones_are_still_written(log: AuditLog) -> None:
    log.path.write_bytes(log.path.read_bytes()[:-20] + b"\n")
    log.append({"action": "PUT"})
    lines = log.path.read_bytes().splitlines()
    assert json.loads(lines[-1])["action"] == "PUT"
    with pytest.raises(ValueError):
        verify(log.path)


def _write(path: Path) -> None:
    log = AuditLog(path)
    for number in range(40):
        log.append({"action": "PUT", "version": number})


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert verify(path) == 120
