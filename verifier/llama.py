"""A lean forward of the Llama family: fused projections over ragged rows, nothing besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.tree_attention import plan_attention, tree_attention
from verifier.errors import ModelRefused
from verifier.linear import Linear
from verifier.norm import RmsNorm
from verifier.rows import CacheShape, ContextRows, Ragged

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROTARY_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


class Layer(NamedTuple):
    """Weights of one block; query and key rows are permuted so that rotation pairs are adjacent."""

    attention_norm: RmsNorm
    qkv: Linear
    head_norm: Tensor | None  # [query and key heads, head_size]
    output: Linear
    mlp_norm: RmsNorm
    gate_up: Linear
    down: Linear
    window: int | None


class LlamaNetwork:
    """Llama, Mistral, Qwen2 or Qwen3, ready to run. Built once from loaded weights."""

    def __init__(self, model: Any) -> None:
        """``model``: a transformers causal LM; its blocks are emptied as they are taken over.

        Raises:
            ModelRefused: something in its config that this forward does not compute.
        """
        config = model.config
        check_config(config)
        self.heads = int(config.num_attention_heads)
        self.key_heads = int(config.num_key_value_heads or self.heads)
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.epsilon = float(config.rms_norm_eps)
        self.activation: Callable[[Tensor], Tensor] = model.model.layers[0].mlp.act_fn
        if config.hidden_act == "silu":
            self.activation = F.silu
        self.frequencies: Tensor = model.model.rotary_emb.inv_freq.float()
        self.rotary_scale = torch.tensor(
            float(model.model.rotary_emb.attention_scaling), device=self.frequencies.device
        )
        self.embedding: Tensor = model.get_input_embeddings().weight.detach()
        self.head = Linear(model.get_output_embeddings().weight.detach())
        self.norm = RmsNorm(model.model.norm.weight.detach(), self.epsilon)
        self.layers = tuple(
            self._take_layer(model, index) for index in range(len(model.model.layers))
        )
        self.windows = frozenset(layer.window for layer in self.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights lie and forwards run."""
        return self.embedding.device

    @property
    def cache_shape(self) -> CacheShape:
        """What a token's keys and values take, and where."""
        dtype = self.embedding.dtype
        return CacheShape(len(self.layers), self.key_heads, self.head_size, dtype, self.device)

    def widen(self, window: int) -> None:
        """Give every layer that looks through a window this one."""
        self.layers = tuple(
            layer if layer.window is None else layer._replace(window=window)
            for layer in self.layers
        )
        self.windows = frozenset(layer.window for layer in self.layers)

    def first_layers(self, count: int) -> LlamaNetwork:
        """The same model ended after ``count`` layers; weights are shared, not copied."""
        cut = object.__new__(LlamaNetwork)
        cut.__dict__.update(self.__dict__)
        cut.layers = self.layers[:count]
        cut.windows = frozenset(layer.window for layer in cut.layers)
        return cut

    @torch.inference_mode()
    def forward(self, batch: Ragged, cache: ContextRows, wanted: Tensor | None = None) -> Tensor:
        """Logits [R, V] float32 of the ``wanted`` rows (None: all); scratch rows are written.

        ``batch`` and ``wanted`` may lie on the host; the logits lie on ``device``.
        """
        batch = batch.to(self.device)
        x = F.embedding(batch.tokens, self.embedding)
        rotation = self._rotation(batch.positions)
        groups = self.heads // self.key_heads
        plans = {
            window: plan_attention(batch.requests, groups=groups, dtype=x.dtype, window=window).to(
                self.device
            )
            for window in self.windows
        }
        last = self.layers[-1]
        for layer, kv in zip(self.layers, cache.layers, strict=True):
            q = self._project(layer, x, rotation, kv, batch)
            mixed = tree_attention(q, kv, plans[layer.window])
            if layer is last and wanted is not None and len(wanted) < len(x):
                # Of the other rows nothing but keys and values was needed.
                wanted = wanted.to(self.device)
                x, mixed = x.index_select(0, wanted), mixed.index_select(0, wanted)
            x = layer.output.added(x, mixed)
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, dim=-1)
            x = layer.down.added(x, self.activation(gate).mul_(up))
        return self.head(self.norm(x)).float()

    def _project(
        self, layer: Layer, x: Tensor, rotation: Tensor, kv: Tensor, batch: Ragged
    ) -> Tensor:
        """Store rotated keys and values; return rotated queries [T, heads, head_size]."""
        hidden = layer.attention_norm(x)
        heads = layer.qkv(hidden).view(x.shape[0], -1, self.head_size)
        turned = heads[:, : self.heads + self.key_heads]
        if layer.head_norm is not None:
            normed = F.rms_norm(turned, (self.head_size,), eps=self.epsilon)
            turned.copy_(normed.mul_(layer.head_norm))
        _rotate(turned, rotation)
        stored = kv.flatten(0, 1)
        if isinstance(batch.writes, slice):
            stored[batch.writes] = heads[:, self.heads :]
        else:
            stored.index_copy_(0, batch.writes, heads[:, self.heads :])
        return heads[:, : self.heads]

    def _rotation(self, positions: Tensor) -> Tensor:
        """cos + i sin of every position and frequency, complex64 [T, 1, head_size / 2]."""
        angles = torch.outer(positions.float(), self.frequencies)
        return torch.polar(self.rotary_scale.expand_as(angles), angles).unsqueeze(1)

    def _take_layer(self, model: Any, index: int) -> Layer:
        block = model.model.layers[index]
        attention, mlp = block.self_attn, block.mlp
        layer = Layer(
            attention_norm=RmsNorm(block.input_layernorm.weight.detach(), self.epsilon),
            qkv=self._fused_qkv(attention),
            head_norm=self._head_norm(attention),
            output=_linear(attention.o_proj),
            mlp_norm=RmsNorm(block.post_attention_layernorm.weight.detach(), self.epsilon),
            gate_up=_linear(mlp.gate_proj, mlp.up_proj),
            down=_linear(mlp.down_proj),
            window=_window(model.config, index),
        )
        model.model.layers[index] = torch.nn.Identity()  # frees the unfused weights
        return layer

    def _fused_qkv(self, attention: Any) -> Linear:
        def fused(name: str) -> Tensor:
            q, k, v = (getattr(getattr(attention, f"{part}_proj"), name).detach() for part in "qkv")
            return torch.cat([self._paired(q), self._paired(k), v])

        has_bias = attention.q_proj.bias is not None
        return Linear(fused("weight"), fused("bias") if has_bias else None)

    def _head_norm(self, attention: Any) -> Tensor | None:
        if getattr(attention, "q_norm", None) is None:
            return None
        q = self._paired(attention.q_norm.weight.detach()).expand(self.heads, -1)
        k = self._paired(attention.k_norm.weight.detach()).expand(self.key_heads, -1)
        return torch.cat([q, k])

    def _paired(self, rows: Tensor) -> Tensor:
        """Reorder rows of each head from (i, i + half) to neighbours; scores do not change."""
        size = self.head_size
        order = torch.arange(size, device=rows.device).view(2, size // 2).t().reshape(-1)
        heads = rows.view(-1, size, *rows.shape[1:])
        return heads[:, order].reshape(rows.shape)


def check_config(config: Any) -> None:
    """Refuse a config of the family that asks for something this forward does not compute."""
    if config.model_type not in MODEL_TYPES:
        raise ModelRefused(f"got model type {config.model_type!r}; expected {sorted(MODEL_TYPES)}")
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in ROTARY_TYPES:
        raise ModelRefused(
            f"rotary type {rotary!r} changes its frequencies with the length of a request; "
            f"expected one of {sorted(ROTARY_TYPES)}"
        )
    partial = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if partial not in (None, 1.0):
        raise ModelRefused(f"got partial_rotary_factor {partial}; expected 1.0")


def _window(config: Any, index: int) -> int | None:
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        return int(window) if window and types[index] == "sliding_attention" else None
    if config.model_type in ("qwen2", "qwen3") and not getattr(config, "use_sliding_window", False):
        return None
    return int(window) if window else None


def _rotate(heads: Tensor, rotation: Tensor) -> None:
    """Rotate adjacent pairs of ``heads`` [T, H, D] in place."""
    pairs = heads.view(*heads.shape[:2], -1, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotation)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * rotation))


def _linear(*modules: Any) -> Linear:
    """One layer of several that share their input, outputs side by side."""
    weights = [module.weight.detach() for module in modules]
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return Linear(torch.cat(weights), torch.cat(biases) if biases else None)
