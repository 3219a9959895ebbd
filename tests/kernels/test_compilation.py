"""Every kernel compiles for real cards: the interpreter accepts what the compiler refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHARED = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}  # bytes a program may have

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def compiled(folder: Path, *arguments: str) -> list[dict[str, int]]:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels.compilation", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "TRITON_CACHE_DIR": str(folder), "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_every_kernel_compiles_without_a_gpu(tmp_path: Path) -> None:
    made = compiled(tmp_path)
    assert len(made) == 6
    assert all(kernel["spilled"] <= 64 for kernel in made)


@pytest.mark.full
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_every_tile_fits_the_card(tmp_path: Path, capability: int) -> None:
    made = compiled(tmp_path, "--all", "--capability", str(capability))
    assert len(made) > 30
    assert [kernel for kernel in made if kernel["shared"] > SHARED[capability]] == []
