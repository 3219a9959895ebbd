"""Draft by text lookup: what followed the same words before, in the prompt, the output or a reference."""

from __future__ import annotations

from drafting.source import DraftRequest, DraftSession, ReferenceKind


class PromptLookup:
    """Source "prompt_lookup": repeats of the prompt and of the output so far."""

    name = "prompt_lookup"

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request."""
        raise NotImplementedError


class ReferenceLookup:
    """Source named after a reference kind: follows such texts and re-synchronises after a divergence."""

    def __init__(self, kind: ReferenceKind) -> None:
        self.name: str = kind
        raise NotImplementedError

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request."""
        raise NotImplementedError
