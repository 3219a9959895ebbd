"""Real engine processes over tiny random Llamas, for every folder that needs one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

CONTEXT = 256  # tokens
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return len(wrapped)


def _write_model(folder: Path, *, seed: int, layers: int, hidden: int) -> None:
    """A random Llama with a byte-level tokenizer and a template, as Hugging Face saves it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = _write_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=0,
        bos_token_id=None,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two models with one vocabulary and a context of 256: `small` and `large`."""
    folder = tmp_path_factory.mktemp("ladder")
    _write_model(folder / "small", seed=1, layers=1, hidden=32)
    _write_model(folder / "large", seed=2, layers=2, hidden=64)
    return folder


@dataclass(frozen=True)
class EngineProcess:
    """A child process and where it listens."""

    process: subprocess.Popen[bytes]
    base: str  # ends before /v1
    socket: Path | None = None

    def connector(self) -> aiohttp.BaseConnector | None:
        return None if self.socket is None else aiohttp.UnixConnector(str(self.socket))

    def wait_ready(self, within_s: float = 240.0) -> None:
        """Until /readyz says 200; a process that ended instead is an error."""
        asyncio.run(self._ready(within_s))

    async def _ready(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        async with aiohttp.ClientSession(connector=self.connector()) as session:
            while time.monotonic() < deadline:
                assert self.process.poll() is None, "the engine ended while starting"
                try:
                    async with session.get(f"{self.base}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError("the engine is not ready in time")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()


StartEngine = Callable[..., EngineProcess]


def _start(arguments: tuple[str, ...], listen: Path | int, module: str) -> EngineProcess:
    """``listen``: a path for a unix socket, or a port of loopback."""
    where = ["--port", str(listen)] if isinstance(listen, int) else ["--socket", str(listen)]
    command = [sys.executable, "-m", module, "--threads", "1", *arguments, *where]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    if isinstance(listen, int):
        return EngineProcess(process, f"http://127.0.0.1:{listen}")
    return EngineProcess(process, "http://engine", listen)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port of loopback that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def shared_engine(tiny_ladder: Path, free_port: Callable[[], int]) -> Iterator[EngineProcess]:
    """Both models on a port, shared by tests that do it no harm; it must stop cleanly."""
    models = [f"large={tiny_ladder / 'large'}", f"small={tiny_ladder / 'small'}"]
    arguments = ("--model", models[0], "--model", models[1], "--draft", "small")
    running = _start(arguments, free_port(), "gateway.engine")
    try:
        running.wait_ready()
        yield running
        assert running.stop() == 0
    finally:
        running.process.kill()


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    """Start an engine of one's own: ``start(*arguments, listen=…)``; it is killed in the end."""
    started: list[EngineProcess] = []

    def start(*arguments: str, listen: Path | int, module: str = "gateway.engine") -> EngineProcess:
        started.append(_start(arguments, listen, module))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
