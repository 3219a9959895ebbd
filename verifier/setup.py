"""Wires one model's decoder: memory, measured costs and draft sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from drafting.cost import StepCost
from drafting.mix import Drafting
from drafting.model_draft import READ_ROWS
from drafting.planner import Planner
from drafting.source import DraftSource
from verifier.block_courier import BlockCourier
from verifier.block_format import BlockFormat
from verifier.block_rates import BlockRates
from verifier.blocks import BlockStore
from verifier.cache import KeyValueCache
from verifier.calibration import MachineCosts
from verifier.choice import Counts
from verifier.decoder import Decoder
from verifier.draft_sources import Place, make_source
from verifier.errors import ModelRefused
from verifier.loading import LoadedModel
from verifier.memory import free_device_bytes
from verifier.scheduler import Scheduler

if TYPE_CHECKING:
    from verifier.engine import EngineConfig


_STEP_TOKENS = 256  # of a prompt, from whose cost the first guess of a token's is made


class Blocks(NamedTuple):
    """A block store, and who is to hear that pages have come from it."""

    store: BlockStore
    arrived: Callable[[], None]


def build_decoder(
    name: str,
    models: Mapping[str, LoadedModel],
    config: EngineConfig,
    costs: MachineCosts,
    extra_sources: Sequence[DraftSource] = (),
    blocks: Blocks | None = None,
) -> Decoder:
    """Everything one of ``models`` needs to run; ``costs`` collects what was measured.

    Raises:
        ModelRefused: its draft model is unknown or speaks another vocabulary.
    """
    model = models[name]
    counts = Counts()
    pages = _pages(model, config)
    _check_memory(model, pages * config.page_size)
    shape = model.network.cache_shape
    cost = costs.of(name)
    courier = _courier(model, config, blocks, cost) if blocks else None
    cache = KeyValueCache(
        shape,
        pages=pages,
        page_size=config.page_size,
        published=courier.save if courier else None,
    )
    scheduler = Scheduler(
        cache,
        counts,
        max_running=config.max_running,
        step_tokens=config.step_tokens,
        order=config.order,
        ageing=config.ageing,
        courier=courier,
    )
    drafting = None
    if config.speculation:
        drafting = _drafting(name, models, config, costs, cost, extra_sources)
    return Decoder(
        model, scheduler, counts, drafting=drafting, cost=cost, max_nodes=config.max_nodes
    )


def _courier(
    model: LoadedModel, config: EngineConfig, blocks: Blocks, cost: StepCost
) -> BlockCourier:
    layout = BlockFormat(
        model.fingerprint, model.network.cache_shape, config.page_size, config.block_secret
    )
    rates = BlockRates(config.page_size, cost(_STEP_TOKENS) / _STEP_TOKENS)
    return BlockCourier(
        blocks.store, layout, config.block_policy, rates=rates, arrived=blocks.arrived
    )


def _pages(model: LoadedModel, config: EngineConfig) -> int:
    if config.pages is not None:
        return config.pages
    size = config.page_size
    affordable = config.cache_bytes // (model.network.cache_shape.bytes_per_token * size)
    return max(affordable, -(-model.max_model_len // size))  # one full context always fits


def _check_memory(model: LoadedModel, tokens: int) -> None:
    """Pages, and as much again for the contexts at hand."""
    shape = model.network.cache_shape
    needed, free = 2 * tokens * shape.bytes_per_token, free_device_bytes(shape.device)
    if free is not None and needed > free:
        raise ModelRefused(
            f"keys and values of {model.name!r} need about {needed / 2**20:.0f} MiB for {tokens} "
            f"tokens, but only {free / 2**20:.0f} MiB are free"
        )


def _drafting(
    name: str,
    models: Mapping[str, LoadedModel],
    config: EngineConfig,
    costs: MachineCosts,
    cost: StepCost,
    extra_sources: Sequence[DraftSource],
) -> Drafting:
    draft = config.draft_models.get(name)
    if draft is not None:
        _check_draft(name, draft, models)
    place = Place(
        target=models[name],
        draft=models[draft] if draft is not None else None,
        exit_layers=config.exit_layers.get(name),
        cost=costs.of,
        read_rows=config.step_tokens or READ_ROWS,
    )
    sources = [source for wanted in config.sources for source in make_source(wanted, place)]
    planner = Planner(cost, max_nodes=config.max_nodes)
    return Drafting([*sources, *extra_sources], planner)


def _check_draft(name: str, draft: str, models: Mapping[str, LoadedModel]) -> None:
    if draft not in models:
        raise ModelRefused(
            f"{name!r} should draft with {draft!r}, which is not loaded; loaded are "
            f"{sorted(models)}"
        )
    if models[draft].vocabulary_digest != models[name].vocabulary_digest:
        raise ModelRefused(f"{draft!r} cannot draft for {name!r}: their vocabularies differ")
