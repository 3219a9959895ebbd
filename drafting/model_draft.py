"""Draft with a smaller model of the same vocabulary, drawing children with the target's own noise."""

from __future__ import annotations

from drafting.source import DraftModel, DraftRequest, DraftSession


class ModelDrafter:
    """Source "draft_model"; a batch of requests is drafted with one forward for each tree level."""

    def __init__(self, model: DraftModel, *, name: str = "draft_model") -> None:
        self.name = name
        raise NotImplementedError

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request: reserves state in the draft model."""
        raise NotImplementedError
