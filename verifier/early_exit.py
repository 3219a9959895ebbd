"""Draft with the target's own first layers: early exit, its final norm and head behind them."""

from __future__ import annotations

from drafting.cost import StepCost
from drafting.model_draft import READ_ROWS, ModelDrafter
from verifier.draft_model import DraftNetwork
from verifier.errors import ModelRefused
from verifier.llama import LlamaNetwork
from verifier.loading import LoadedModel


def early_exit(
    model: LoadedModel, layers: int, cost: StepCost, *, read_rows: int = READ_ROWS
) -> ModelDrafter:
    """The source "early_exit" of ``model``, ending after ``layers`` of its layers.

    It shares the target's weights; keys and values of its layers it keeps for itself, since a
    draft may run ahead of what is committed. Elhoushi et al., LayerSkip, 2024, trains models for
    this; of others it guesses worse, and the planner gives it up.

    ``cost``: of the whole model's forwards, of which it takes its layers' share; ``read_rows``: of
    texts that it may read in one step.

    Raises:
        ModelRefused: the model has no more layers than that, or is not of the lean path.
    """
    network = model.network
    if not isinstance(network, LlamaNetwork):
        raise ModelRefused(f"{model.name!r} cannot draft by early exit: it is not of the lean path")
    depth = len(network.layers)
    if not 1 <= layers < depth:
        raise ModelRefused(
            f"got {layers} layers of early exit for {model.name!r}; expected 1 to {depth - 1}"
        )
    return ModelDrafter(
        DraftNetwork(network.first_layers(layers)),
        name="early_exit",
        cost=cost.scaled(layers / depth),
        longest=model.max_model_len,
        read_rows=read_rows,
    )
