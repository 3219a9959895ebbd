"""A real engine process over a tiny random Llama, on a unix socket and on a port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

CONTEXT = 256
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_model(folder: Path, *, seed: int, layers: int = 2, hidden: int = 64) -> Path:
    """A random Llama with a byte-level tokenizer and a chat template, as Hugging Face saves it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=wrapped.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class RunningEngine:
    """A child process and where it listens."""

    process: subprocess.Popen[bytes]
    base: str
    socket: Path | None

    def connector(self) -> aiohttp.BaseConnector | None:
        return None if self.socket is None else aiohttp.UnixConnector(str(self.socket))


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models with one vocabulary: `small` and `large`."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "small", seed=1, layers=1, hidden=32)
    write_model(folder / "large", seed=2)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway.engine", "--threads", "1", *arguments]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(command, env=environment)


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="session")
def engine(ladder: Path) -> Iterator[RunningEngine]:
    """Two models behind a port of loopback, shared by the tests that do it no harm."""
    port = free_port()
    process = start(
        [
            *("--model", f"large={ladder / 'large'}", "--model", f"small={ladder / 'small'}"),
            *("--draft", "small", "--port", str(port)),
        ]
    )
    running = RunningEngine(process, f"http://127.0.0.1:{port}", None)
    wait_ready(running)
    yield running
    assert stop(process) == 0


def wait_ready(running: RunningEngine, within_s: float = 60.0) -> None:
    """Until /readyz says 200; a process that ended instead is an error."""
    asyncio.run(_ready(running, within_s))


async def _ready(running: RunningEngine, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    async with aiohttp.ClientSession(connector=running.connector()) as session:
        while time.monotonic() < deadline:
            assert running.process.poll() is None, "the engine ended while starting"
            try:
                async with session.get(f"{running.base}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError("the engine is not ready in time")


@pytest.fixture
async def http(engine: RunningEngine) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the shared engine."""
    async with aiohttp.ClientSession(engine.base) as session:
        yield session
