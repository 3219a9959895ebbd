"""Which draft sources an engine knows by name, and how each is made for a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from drafting.cost import StepCost
from drafting.lookahead import Lookahead
from drafting.model_draft import READ_ROWS, ModelDrafter
from drafting.recent_answers import RecentAnswers
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftSource, ReferenceKind
from drafting.suffix_lookup import PromptLookup
from verifier.draft_model import DraftNetwork
from verifier.early_exit import early_exit
from verifier.errors import ModelRefused
from verifier.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source is to work."""

    target: LoadedModel
    draft: LoadedModel | None  # the target's draft model, where it has one
    exit_layers: int | None = None  # after which the target may end early
    cost: Callable[[str], StepCost]  # of forwards of a model, by its name
    read_rows: int = READ_ROWS  # of texts a draft model may read in one step


Maker = Callable[[Place], DraftSource | None]
"""Makes a source; None where the model lacks what it needs."""


def _draft_model(place: Place) -> DraftSource | None:
    if place.draft is None:
        return None
    draft = place.draft
    return ModelDrafter(
        DraftNetwork(draft.network, width=draft.vocab_size, vocabulary=place.target.vocab_size),
        cost=place.cost(draft.name),
        longest=min(draft.max_model_len, draft.rotary_switch or draft.max_model_len),
        read_rows=place.read_rows,
    )


def _early_exit(place: Place) -> DraftSource | None:
    if place.exit_layers is None:
        return None
    cost = place.cost(place.target.name)
    return early_exit(place.target, place.exit_layers, cost, read_rows=place.read_rows)


def _references(kind: ReferenceKind) -> Maker:
    return lambda place: ReferenceLookup(kind)


MAKERS: Final[Mapping[str, Maker]] = {
    "prompt_lookup": lambda place: PromptLookup(),
    **{kind: _references(kind) for kind in get_args(ReferenceKind)},
    "recent_answer": lambda place: RecentAnswers(),
    "lookahead": lambda place: Lookahead(),
    "draft_model": _draft_model,
    "early_exit": _early_exit,
}
"""A new source is a file of its own and a line here."""


def make_source(wanted: str, place: Place) -> list[DraftSource]:
    """The source of that name; none where the model lacks what it needs.

    Raises:
        ModelRefused: there is no source of that name.
    """
    maker = MAKERS.get(wanted)
    if maker is None:
        raise ModelRefused(f"got draft source {wanted!r}; expected one of {sorted(MAKERS)}")
    source = maker(place)
    return [] if source is None else [source]
