"""`spillway verify` as a user runs it: a page or JSON, and an exit status that means something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LADDER = Path("demo/ladder")
QUICK = ("--threads", "1", "--requests", "4", "--tokens", "8", "--quiet")


def verify(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "verify", *map(str, arguments)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=400, check=False
    )


def test_a_model_with_a_draft_model_is_certified_as_json(tiny_ladder: Path) -> None:
    models = ("--model", tiny_ladder / "large", "--draft", tiny_ladder / "small")
    done = verify(*models, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["held"] is True
    assert [run["dtype"] for run in told["runs"]] == ["float32", "bfloat16"]
    assert told["runs"][0]["acceptance_length"]["draft_model"] >= 1.0
    assert told["runs"][0]["texts_compared"] == 4 * len(told["runs"][0]["cells"])
    assert done.stderr == ""


@pytest.mark.skipif(not (LADDER / "brook").is_dir(), reason="the ladder is not there")
def test_the_shipped_ladder_is_certified_on_prompts_of_ones_own(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Sort these words: pear, fig\n\nWhat is 2 + 2?\n")
    models = ("--model", LADDER / "creek", "--draft", LADDER / "brook", "--prompts", prompts)
    done = verify(*models, *QUICK, "--dtype", "float32", "--no-generate")
    assert done.returncode == 0, done.stderr
    assert "4 requests over 2 prompts" in done.stdout
    assert done.stdout.rstrip().endswith("HELD") and "DID NOT" not in done.stdout
    assert "bfloat16" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "--model"),
        (("--model", "/nowhere"), 78, "no directory"),
        (("--model", "/nowhere", "--requests", "0"), 2, "at least 1"),
        (("--model", "/nowhere", "--prompts", "/nowhere.txt"), 78, "/nowhere.txt"),
    ],
)
def test_what_cannot_be_run_is_refused_as_usual(
    arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = verify(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr and "Traceback" not in done.stderr
