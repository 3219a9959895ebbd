"""Runs any transformers decoder that computes attention through the library's interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from kernels.tree_attention import AttentionPlan, plan_attention, tree_attention
from verifier.errors import ModelRefused
from verifier.rows import CacheShape, ContextRows, Ragged
from verifier.sides import Side, sides

NAME = "spillway"
_SINKS = "s_aux"
_REFUSED = ("position_bias", "cache")  # arguments that change scores, and are not computed here


class LayerShape(NamedTuple):
    """Keys and values of one layer."""

    key_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """What a head takes in the cache: the wider of key and value."""
        return max(self.key_size, self.value_size)


class Call(NamedTuple):
    """One layer asking for attention."""

    module: Any
    query: Tensor  # [1, heads, T, key_size]
    key: Tensor  # [1, key_heads, T, key_size]
    value: Tensor  # [1, key_heads, T, value_size]
    window: int | None
    scale: float
    softcap: float | None
    sinks: Tensor | None


class _Answering(Protocol):
    """Whoever runs the forward in progress."""

    def mask(self, window: int | None, rule: Any) -> None: ...

    def attend(self, call: Call) -> Tensor: ...


_answering: ContextVar[_Answering] = ContextVar("answering")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **given: Any,
) -> tuple[Tensor, None]:
    """What transformers calls; output [1, T, heads, value_size]."""
    odd = [name for name in _REFUSED if given.get(name) is not None]
    if odd:
        raise ModelRefused(f"attention with {', '.join(odd)} is not computed here")
    if attention_mask is not None and attention_mask.numel() != 1:
        raise ModelRefused("it makes a mask of its own from the one it is given")
    window = int(attention_mask.item()) if attention_mask is not None else 0
    scale = given.get("scaling")
    call = Call(
        module,
        query,
        key,
        value,
        window or None,
        query.shape[-1] ** -0.5 if scale is None else float(scale),
        given.get("softcap"),
        given.get(_SINKS),
    )
    return _answering.get().attend(call), None


def _mask(*, mask_function: Any, local_size: int | None = None, **_: Any) -> Tensor:
    """In the place of a mask, a single number on the host: the layer's window, 0 for none."""
    _answering.get().mask(local_size, mask_function)
    return torch.full((1, 1, 1, 1), local_size or 0, dtype=torch.int64, device="cpu")


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


@contextmanager
def _answered_by(who: _Answering) -> Iterator[None]:
    token = _answering.set(who)
    try:
        yield
    finally:
        _answering.reset(token)


class _Trace:
    """Looks at one forward of one short sequence: who calls, with what, under which mask."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def mask(self, window: int | None, rule: Any) -> None:
        if not _is_window(rule, window):
            kind = "causal" if window is None else f"a sliding window of {window}"
            raise ModelRefused(f"its attention mask is not {kind} (chunked attention?)")

    def attend(self, call: Call) -> Tensor:
        self.calls.append(call)
        rows, heads = call.query.shape[2], call.query.shape[1]
        return call.value.new_zeros(1, rows, heads, call.value.shape[3])


def _is_window(rule: Any, window: int | None) -> bool:
    """Whether transformers' own rule of who sees whom is causal within ``window``, far out too."""
    reach = window or 64
    rows = torch.tensor([0, 1, reach - 1, reach, reach + 1, 2 * reach + 3])
    columns = torch.arange(2 * reach + 5)
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    query, key = rows.view(1, 1, -1, 1), columns.view(1, 1, 1, -1)
    seen = torch.as_tensor(rule(nothing, nothing, query, key)).broadcast_to(1, 1, 6, len(columns))
    expected = key <= query
    if window is not None:
        expected = expected & (query - key < window)
    return bool(torch.equal(seen, expected))


class _Step:
    """Answers every layer of one ragged forward from the cache."""

    def __init__(self, batch: Ragged, cache: ContextRows, places: dict[int, int]) -> None:
        self._batch = batch
        self._cache = cache
        self._places = places
        self._plans: dict[tuple[int | None, int], AttentionPlan] = {}

    def mask(self, window: int | None, rule: Any) -> None:
        """Known from the trace."""

    def attend(self, call: Call) -> Tensor:
        layer = self._cache.layers[self._places[id(call.module)]]
        shape, rows = _shape(call), len(self._batch.tokens)
        self._store(layer, shape, call)
        query = call.query[0, :, :rows].transpose(0, 1)
        if shape.size > shape.key_size:
            query = F.pad(query, (0, shape.size - shape.key_size))
        mixed = tree_attention(
            query.contiguous(),
            layer[:, :, : 2 * shape.key_heads, : shape.size],
            self._plan(call, query.shape[1] // shape.key_heads),
            scale=call.scale,
            softcap=call.softcap,
            sinks=call.sinks,
        )
        mixed = mixed.view(1, rows, query.shape[1], shape.size)[..., : shape.value_size]
        extra = call.query.shape[2] - rows  # a row of nobody's gets nothing
        return F.pad(mixed, (0, 0, 0, 0, 0, extra)) if extra else mixed

    def _store(self, layer: Tensor, shape: LayerShape, call: Call) -> None:
        stored, writes, heads = layer.flatten(0, 1), self._batch.writes, shape.key_heads
        rows = len(self._batch.tokens)
        stored[writes, :heads, : shape.key_size] = call.key[0, :, :rows].transpose(0, 1)
        stored[writes, heads : 2 * heads, : shape.value_size] = call.value[0, :, :rows].transpose(
            0, 1
        )

    def _plan(self, call: Call, groups: int) -> AttentionPlan:
        key = (call.window, groups)
        if key not in self._plans:
            plan = plan_attention(
                self._batch.requests, groups=groups, dtype=call.query.dtype, window=call.window
            )
            self._plans[key] = plan.to(call.query.device)
        return self._plans[key]


def _shape(call: Call) -> LayerShape:
    return LayerShape(call.key.shape[1], call.key.shape[3], call.value.shape[3], call.key.dtype)


class AttentionNetwork:
    """A transformers causal LM whose every layer asks for attention once, and gets ours."""

    def __init__(self, model: Any, switch: int | None = None) -> None:
        """``model``: in eval mode; its attention implementation is set for good.

        ``switch``: tokens of a text beyond which the model turns all of its positions otherwise.

        Raises:
            ModelRefused: layers that do not ask, ask twice, or see otherwise than through a window.
        """
        self._model = model
        self._switch = switch
        model.set_attn_implementation(NAME)
        self.layers, self.windows = self._traced()
        self._places = {id(call): place for place, call in enumerate(self._modules)}

    @property
    def device(self) -> torch.device:
        """Where the weights lie and forwards run."""
        device: torch.device = self._model.get_input_embeddings().weight.device
        return device

    @property
    def cache_shape(self) -> CacheShape:
        """What a token's keys and values take, and where; room for the widest layer in each."""
        return CacheShape(
            len(self.layers),
            max(layer.key_heads for layer in self.layers),
            max(layer.size for layer in self.layers),
            self.layers[0].dtype,
            self.device,
        )

    @torch.inference_mode()
    def forward(self, batch: Ragged, cache: ContextRows, wanted: Tensor | None = None) -> Tensor:
        """Logits [R, V] float32 of the ``wanted`` rows (None: all); scratch rows are written.

        ``batch`` and ``wanted`` may lie on the host; the logits lie on ``device``.
        """
        batch = batch.to(self.device)
        rows = torch.arange(len(batch.tokens)) if wanted is None else wanted
        if self._switch is None:
            return self._logits(batch, cache, rows)
        parts = sides(batch)
        if len(parts) == 1:
            return self._logits(batch, cache, rows, stretched=parts[0].stretched)
        return self._of_both_sides(parts, cache, rows.cpu())

    def _of_both_sides(self, parts: Sequence[Side], cache: ContextRows, wanted: Tensor) -> Tensor:
        """A forward for each side: the model decides once a forward how positions turn."""
        logits: Tensor | None = None
        for batch, rows, stretched in parts:
            mine = torch.isin(wanted, rows)
            own = torch.searchsorted(rows, wanted[mine])
            found = self._logits(batch, cache, own, stretched=stretched)
            if logits is None:
                logits = found.new_empty(len(wanted), found.shape[1])
            logits[mine.to(self.device)] = found
        assert logits is not None
        return logits

    def _logits(
        self, batch: Ragged, cache: ContextRows, wanted: Tensor, *, stretched: bool = False
    ) -> Tensor:
        tokens, positions = batch.tokens, batch.positions
        if stretched:  # the model looks for a far position; a row of nobody's always has one
            tokens = F.pad(tokens, (0, 1))
            positions = F.pad(positions, (0, 1), value=self._switch or 0)
        with _answered_by(_Step(batch, cache, self._places)):
            return self._run(tokens, positions, wanted.to(self.device))

    def _run(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        found = self._model(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=wanted,
        )
        logits: Tensor = found.logits[0].float()
        return logits

    @torch.inference_mode()
    def _traced(self) -> tuple[tuple[LayerShape, ...], frozenset[int | None]]:
        trace = _Trace()
        two = torch.arange(2, device=self.device)
        with _answered_by(trace):
            self._run(two, two, two)
        self._modules = [call.module for call in trace.calls]
        layers = int(self._model.config.get_text_config().num_hidden_layers)
        if len({id(module) for module in self._modules}) != layers or len(trace.calls) != layers:
            raise ModelRefused(
                f"{len(trace.calls)} calls of the attention interface for {layers} layers; "
                "expected one a layer"
            )
        shapes = tuple(_shape(call) for call in trace.calls)
        if len({shape.dtype for shape in shapes}) > 1:
            raise ModelRefused("layers keep keys of different dtypes; expected one")
        return shapes, frozenset(call.window for call in trace.calls)
