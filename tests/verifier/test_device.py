"""A forward away from the host, on PyTorch's device of shapes without numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from kernels.commit import Accepted, commit_rows
from kernels.tree_attention import Rows
from verifier.cache import KeyValueCache
from verifier.llama import LlamaNetwork
from verifier.rows import ContextRows, ragged

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
AWAY = torch.device("meta")


def _network(config_class: Any) -> LlamaNetwork:
    with AWAY:
        model = AutoModelForCausalLM.from_config(config_class(**SMALL))
    return LlamaNetwork(model)


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize(
    "requests",
    [
        [Rows(0, 3, [-1], 1)],
        [Rows(0, 3, [-1, 0, 0], 3)],
        [Rows(0, 3, [-1, 0, 0], 3), Rows(1, 5, [-1], 1), Rows(2, 0, [-1, 0], 2)],
    ],
)
def test_a_forward_stays_on_the_device_of_its_weights(
    config_class: Any, requests: list[Rows]
) -> None:
    network = _network(config_class)
    assert network.device == AWAY
    cache = ContextRows(network.cache_shape)
    cache.ensure(len(requests), 16)
    assert cache.kv.device == AWAY
    batch = ragged(requests, [[1] * request.fresh for request in requests], cache.capacity)
    logits = network.forward(batch, cache, torch.tensor([0]))
    assert (logits.device, logits.shape) == (AWAY, (1, 64))
    commit_rows(cache.kv, [Accepted(0, 3, [1])])


def test_pages_lie_on_the_device_of_the_weights() -> None:
    cache = KeyValueCache(_network(LlamaConfig).cache_shape, pages=4, page_size=4)
    assert cache._store.device == AWAY
    lease = cache.open((1, 2, 3), b"root")
    assert cache.rows.kv.device == AWAY
    cache.close(lease)
