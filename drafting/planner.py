"""How many draft nodes each request gets at each step, so that speculation never costs more than it saves."""

from __future__ import annotations

from drafting.cost import StepCost


class Planner:
    """Shares draft nodes across the batch where they are expected to save time."""

    def __init__(
        self, cost: StepCost, *, draft_cost: StepCost | None = None, max_nodes: int = 32
    ) -> None:
        """``cost``: forwards of the target; ``draft_cost``: of the draft model; ``max_nodes``: of one request."""
        raise NotImplementedError
