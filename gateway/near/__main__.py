"""The embedder's process: lengths and texts come in, vectors go out, until the input ends."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path

from gateway.errors import ConfigError
from gateway.near.sentences import Sentences

_NICE = 5  # requests being answered go first
BAD_CONFIG = 78


def main(folder: Path) -> int:
    """Embed one text after another; returns the exit status."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        sentences = Sentences(folder)
    except ConfigError as error:
        print(f"spillway: {error}", file=sys.stderr)
        return BAD_CONFIG
    wanted, given = sys.stdin.buffer, sys.stdout.buffer
    while len(head := wanted.read(4)) == 4:
        text = wanted.read(struct.unpack("<I", head)[0]).decode("utf-8", "replace")
        vector = sentences.embed(text).astype("<f4").tobytes()
        given.write(struct.pack("<I", len(vector)) + vector)
        given.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
