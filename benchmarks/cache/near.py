"""Near hits on the shipped ladder: paraphrases, opposites, and what a useless neighbour costs."""

from __future__ import annotations

from pathlib import Path


def measure(folder: Path, embedder: Path) -> dict[str, object]:
    raise NotImplementedError
