"""Time to first token of a prefix that Redis gives back, and what speculation does to hit rates."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.cache.redis_server import Server
from benchmarks.cache.throttle import throttled
from drafting.source import Reference
from gateway.engine.block_store import RedisBlockStore
from verifier.blocks import BlockStore
from verifier.engine import Engine, EngineConfig
from verifier.loading import LoadedModel, load_model
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules

MODEL = Path("demo/ladder/river")
TOKENS = 1_000
ROUNDS = 12
SLOW = 20e6  # bytes a second, where computing on two cores wins
_CONFIG = EngineConfig(speculation=False, block_secret=b"s" * 32)
Prompt = tuple[int, ...]


def measure(server: Server) -> dict[str, Any]:
    """Ratios of times to first token, fetched to computed, medians of interleaved pairs."""
    torch.set_num_threads(2)
    model = load_model(MODEL, name="river")
    dice = random.Random(7)
    prompts = [_prompt(dice, model) for _ in range(ROUNDS + 2)]
    with _engine(model, server.url) as first:
        for prompt in prompts:
            _first_token_s(first, prompt)
        _settle(first)
    with throttled(server.port, SLOW) as port:
        slow = f"redis://127.0.0.1:{port}/0"
        return {
            "tokens": TOKENS,
            "restored": _compared(model, server.url, prompts),
            "throttled": _compared(model, slow, prompts) | {"bytes_per_s": SLOW},
            "speculation": speculation(model),
        }


def _compared(model: LoadedModel, url: str, prompts: Sequence[Prompt]) -> dict[str, float]:
    """A new engine over the store beside a new one without; the first two prompts warm up."""
    with _engine(model, url) as stored, _engine(model, None) as plain:
        pairs = []
        for number, prompt in enumerate(prompts):
            engines = (stored, plain) if number % 2 else (plain, stored)
            taken = {id(engine): _first_token_s(engine, prompt) for engine in engines}
            pairs.append((taken[id(stored)], taken[id(plain)]))
            _settle(stored)
        stats = stored.stats().models["river"]
    pairs = pairs[2:]
    return {
        "ratio": round(median(one / other for one, other in pairs), 3),
        "first_token_ms": round(1e3 * median(one for one, _ in pairs), 2),
        "computed_ms": round(1e3 * median(other for _, other in pairs), 2),
        "pages_restored": stats.blocks.get("restored", 0),
        "pages_declined": stats.blocks.get("declined", 0),
    }


def speculation(model: LoadedModel) -> dict[str, float]:
    """Shares of prompt tokens found in pages, of the same requests with drafts and without."""
    found: dict[str, float] = {}
    for mode in ("off", "fixed"):
        config = EngineConfig(pages=160)
        engine, dice = Engine({"river": model}, config), random.Random(11)
        texts: list[Prompt] = [_prompt(dice, model)[:200]]
        for number in range(60):
            base = dice.choice(texts[-8:])
            prompt = (*base[: dice.randrange(40, len(base))], *_prompt(dice, model)[:20])
            guess = Reference("prediction", base[:60])
            request = _request(prompt, f"{number}", tokens=16, mode=mode, references=(guess,))
            texts.append((*prompt, *_run(engine, request))[:400])
        stats = engine.stats().models["river"]
        found[mode] = round(stats.prefix_hit_tokens / stats.prompt_tokens, 6)
        if mode == "fixed":
            found["drafted"] = stats.drafted
        engine.close()
    return found | {"points": round(100 * (found["fixed"] - found["off"]), 4)}


@contextlib.contextmanager
def _engine(model: LoadedModel, url: str | None) -> Iterator[Engine]:
    store: BlockStore | None = None if url is None else RedisBlockStore(url, ttl_s=600)
    engine = Engine({"river": model}, _CONFIG, blocks=store)
    try:
        yield engine
    finally:
        engine.close()


def _settle(engine: Engine) -> None:
    """Until everything waiting to be saved was."""
    courier = engine._decoders["river"].scheduler.courier
    while courier is not None and courier.busy:
        time.sleep(0.005)


def _first_token_s(engine: Engine, prompt: Prompt) -> float:
    began = time.perf_counter()
    engine.submit(_request(prompt, "r", tokens=1))
    while not any(output.tokens for output in engine.step()):
        pass
    taken = time.perf_counter() - began
    while engine.has_work():
        engine.step()
    return taken


def _run(engine: Engine, request: GenerationRequest) -> Prompt:
    engine.submit(request)
    tokens: list[int] = []
    while engine.has_work():
        for output in engine.step():
            tokens += output.tokens
    return tuple(tokens)


def _request(
    prompt: Prompt, name: str, *, tokens: int, mode: Any = "off", references: Any = ()
) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        model="river",
        prompt=prompt,
        sampling=SamplingParams(temperature=0.0),
        stops=StopRules(max_tokens=tokens, ignore_eos=True),
        speculation=Speculation(mode=mode),
        references=references,
    )


def _prompt(dice: random.Random, model: LoadedModel) -> Prompt:
    return tuple(dice.randrange(8, model.vocab_size) for _ in range(TOKENS))


if __name__ == "__main__":
    import json
    import tempfile

    from benchmarks.cache.redis_server import running

    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as started:
        print(json.dumps(measure(started), indent=1))
