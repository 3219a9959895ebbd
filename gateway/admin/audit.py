"""The audit log: one JSON line for each change, each naming the hash of the line before it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from gateway.generation import Json

FIRST = "0" * 64
_TAIL_BYTES = 64 * 1024  # longer than any line


class AuditLog:
    """Appends to a file that several processes on one machine may share.

    A line's ``hash`` is SHA-256 over its own JSON without that key, and ``previous`` is the hash
    of the line before: no line can be changed, removed or put in between without it showing.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock

    def append(self, record: Mapping[str, Json]) -> None:
        """Write one line, whole, before returning.

        Raises:
            OSError: it could not be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            line = {"time": round(self._clock(), 3), **record, "previous": _last_hash(file)}
            file.seek(0, os.SEEK_END)
            file.write(_dump({**line, "hash": _hash(line)}) + b"\n")


def verify(path: Path) -> int:
    """Number of lines of an unbroken chain.

    Raises:
        ValueError: a line that does not follow from the one before it; the message names it.
    """
    previous, number = FIRST, 0
    for number, line in enumerate(_lines(path), start=1):
        told = line.pop("hash", None)
        if line.get("previous") != previous or told != _hash(line):
            raise ValueError(f"{path}: line {number} does not follow from the line before")
        previous = told
    return number


def _lines(path: Path) -> Iterator[dict[str, Json]]:
    with path.open("rb") as file:
        for raw in file:
            line = json.loads(raw)
            yield line if isinstance(line, dict) else {}


def _last_hash(file: BinaryIO) -> str:
    """Hash of the last whole line; a line cut short by a crash breaks the chain for all to see."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    lines = file.read().splitlines()
    if not lines:
        return FIRST
    try:
        return str(json.loads(lines[-1])["hash"])
    except (ValueError, KeyError, TypeError):
        return hashlib.sha256(lines[-1]).hexdigest()


def _hash(line: Mapping[str, Json]) -> str:
    return hashlib.sha256(_dump(line)).hexdigest()


def _dump(line: Mapping[str, Json]) -> bytes:
    return json.dumps(line, separators=(",", ":"), sort_keys=True).encode()
