"""The Llama forward pass as training wants it: fused weights, bfloat16, no masks but causal."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from demo.recipe import CONTEXT, NORM_EPSILON, ROPE_THETA, Recipe

SHARP_FREQUENCIES, SHARPNESS = 6, 5.0


class _CausalAttention(torch.autograd.Function):
    """Grouped attention with the probabilities kept: much faster here than the fused kernel."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """`query` (B*K, G*L, D), already scaled; `key`, `value` (B*K, L, D); `mask` (L, L)."""
        length = key.shape[1]
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.view(-1, length, length).add_(mask)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, weights)
        return torch.bmm(weights, value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The textbook gradient."""
        query, key, value, weights = ctx.saved_tensors
        (grad,) = grads
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        return (
            torch.bmm(scores, key),
            torch.bmm(scores.transpose(1, 2), query),
            torch.bmm(weights.transpose(1, 2), grad),
            None,
        )


class _Rotate(torch.autograd.Function):
    """Rotary positions; the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` (B, L, heads, D); `cos`, `sin` (L, 1, D/2)."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Turn by the opposite angle."""
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return out


class Layer(NamedTuple):
    """The weights of one decoder layer."""

    attention_norm: Tensor
    qkv: Tensor
    attention_out: Tensor
    inner_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Transformer:
    """A Llama whose forward returns the final hidden states."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        constant = torch.randn(recipe.width).sign()
        self.embedding = self._random(vocabulary, recipe.width, scale=1.0)
        self.head = self._random(vocabulary, recipe.width, scale=0.01)
        self.layers = [self._layer() for _ in range(recipe.layers)]
        self._look_back(constant)
        self.final_norm = self._ones()
        self._cos, self._sin = _angles(recipe.head_size)
        self._mask = torch.full((CONTEXT, CONTEXT), -1e9, dtype=torch.bfloat16).triu(1)

    def _random(self, rows: int, columns: int, scale: float) -> Tensor:
        return (torch.randn(rows, columns) * scale).bfloat16().requires_grad_()

    def _ones(self) -> Tensor:
        return torch.ones(self.recipe.width, dtype=torch.bfloat16, requires_grad=True)

    def _layer(self) -> Layer:
        r = self.recipe
        projected = (r.heads + 2 * r.kv_heads) * r.head_size
        near, deep = r.width**-0.5 * 0.8, (2 * r.layers) ** -0.5
        return Layer(
            self._ones(),
            self._random(projected, r.width, near),
            self._random(r.width, r.heads * r.head_size, near * deep),
            self._ones(),
            self._random(2 * r.inner, r.width, near),
            self._random(r.width, r.inner, r.inner**-0.5 * 0.8 * deep),
        )

    @torch.no_grad()
    def _look_back(self, constant: Tensor) -> None:
        """Let the first heads of the first layer begin by looking one, two, ... tokens back.

        Every embedding gets one constant direction; the heads turn it into a query that
        rotary positions make peak at a fixed distance. Copying then starts within minutes:
        without it, no model here had found how to copy after three million tokens.
        """
        r = self.recipe
        self.embedding.add_(constant.bfloat16())
        size, half = r.head_size, r.head_size // 2
        frequencies = ROPE_THETA ** -(torch.arange(half) / half)
        strength = torch.where(torch.arange(half) < SHARP_FREQUENCIES, SHARPNESS, 0.0)
        reader = constant * (2**0.5 / r.width)
        query, key, _ = torch.split(self.layers[0].qkv, [r.heads * size, *[r.kv_heads * size] * 2])
        _install(key[:size], torch.cat([strength, torch.zeros(half)]), reader)
        for head in range(r.heads // r.kv_heads):
            turn = frequencies * (head + 1)
            wanted = torch.cat([strength * turn.cos(), -strength * turn.sin()])
            _install(query[head * size : (head + 1) * size], wanted, reader)

    @torch.no_grad()
    def grow_from(self, young: "Transformer") -> None:
        """Become a shallower model, its layers spread evenly between ones that do nothing yet."""
        stride = self.recipe.layers // young.recipe.layers
        for own, theirs in zip(self.shared(), young.shared(), strict=True):
            own.copy_(theirs)
        for place, layer in enumerate(self.layers):
            if place % stride:
                layer.attention_out.zero_()
                layer.down.zero_()
            else:
                for own, theirs in zip(layer, young.layers[place // stride], strict=True):
                    own.copy_(theirs)

    def shared(self) -> tuple[Tensor, ...]:
        """What belongs to no layer."""
        return self.embedding, self.head, self.final_norm

    def matrices(self) -> list[tuple[Tensor, tuple[int, ...]]]:
        """The hidden weights, each with the row counts of the parts fused into it."""
        r = self.recipe
        grouped = r.kv_heads * r.head_size
        parts = []
        for layer in self.layers:
            parts += [
                (layer.qkv, (r.heads * r.head_size, grouped, grouped)),
                (layer.attention_out, (r.width,)),
                (layer.gate_up, (r.inner, r.inner)),
                (layer.down, (r.width,)),
            ]
        return parts

    def vectors(self) -> list[Tensor]:
        """The head and the norms."""
        norms = [n for layer in self.layers for n in (layer.attention_norm, layer.inner_norm)]
        return [self.head, *norms, self.final_norm]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states (B, L, width) of right-padded `tokens` (B, L)."""
        x = functional.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = x + self._attend(self._norm(x, layer.attention_norm), layer)
            gate, up = functional.linear(self._norm(x, layer.inner_norm), layer.gate_up).chunk(
                2, -1
            )
            x = x + functional.linear(functional.silu(gate) * up, layer.down)
        return self._norm(x, self.final_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.recipe.width,), weight, NORM_EPSILON)

    def _attend(self, x: Tensor, layer: Layer) -> Tensor:
        r = self.recipe
        batch, length, _ = x.shape
        fused = functional.linear(x, layer.qkv).view(batch, length, -1, r.head_size)
        turned = _Rotate.apply(  # type: ignore[no-untyped-call]
            fused[:, :, : r.heads + r.kv_heads], self._cos[:length], self._sin[:length]
        )
        query, key = torch.split(turned, [r.heads, r.kv_heads], 2)
        value = fused[:, :, r.heads + r.kv_heads :]
        mixed = _CausalAttention.apply(  # type: ignore[no-untyped-call]
            (query * r.head_size**-0.5)
            .transpose(1, 2)
            .reshape(batch * r.kv_heads, -1, r.head_size),
            key.transpose(1, 2).reshape(batch * r.kv_heads, length, r.head_size),
            value.transpose(1, 2).reshape(batch * r.kv_heads, length, r.head_size),
            self._mask[:length, :length],
        )
        heads = mixed.view(batch, r.heads, length, r.head_size).transpose(1, 2)
        return functional.linear(heads.reshape(batch, length, -1), layer.attention_out)


def _install(weight: Tensor, wanted: Tensor, reader: Tensor) -> None:
    weight.mul_(0.1).add_(torch.outer(wanted, reader).bfloat16())


def _angles(head_size: int) -> tuple[Tensor, Tensor]:
    frequencies = ROPE_THETA ** -(torch.arange(0, head_size, 2) / head_size)
    turns = torch.outer(torch.arange(CONTEXT).float(), frequencies)[:, None, :]
    return turns.cos().bfloat16(), turns.sin().bfloat16()
