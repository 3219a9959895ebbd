"""LiteLLM's proxy with its Redis cache, over the same model server and the same Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.cache.front import MODEL, await_url, free_port, start
from benchmarks.cache.redis_server import Server
from benchmarks.cache.responses import hits

_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{upstream}/v1", api_key: sk-none}}
litellm_settings:
  cache: true
  cache_params: {{type: redis, host: 127.0.0.1, port: {port}}}
general_settings:
  master_key: sk-benchmark
"""


def measure(
    folder: Path, upstream_url: str, redis: Server, program: Path, seconds: float
) -> dict[str, float]:
    """Its hits a second with one worker, asked the same way."""
    config, log = folder / "litellm.yaml", folder / "litellm.log"
    config.write_text(_CONFIG.format(model=MODEL, upstream=upstream_url, port=redis.port))
    port = free_port()
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    process = start([*command, "--num_workers", "1"], log, LITELLM_LOG="ERROR")
    url = f"http://127.0.0.1:{port}"
    try:
        await_url(f"{url}/health/liveliness", process, log, patience_s=120)
        return asyncio.run(hits(url, MODEL, seconds))
    finally:
        process.terminate()
        process.wait()
