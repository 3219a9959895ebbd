"""What a page costs to fetch and to compute, as measured while running, and which costs less."""

from __future__ import annotations

from typing import Final

_NEWEST: Final = 0.3  # weight of the latest measurement
_LEAST_TOKENS: Final = 64  # of a step that says what a prompt token costs; fewer hide in the rest


class BlockRates:
    """Moving averages, in seconds; None where nothing is known yet.

    ``first_s``: from asking until the first page is here; ``page_s``: for each page after it;
    ``token_s``: for a prompt token, in steps as full as they have lately been.
    """

    def __init__(self, page_size: int, token_s: float | None = None) -> None:
        self.first_s: float | None = None
        self.page_s: float | None = None
        self.token_s = token_s
        self._page_size = page_size

    def fetched(self, pages: int, first_s: float, total_s: float) -> None:
        """``pages`` came within ``total_s``; with none, nothing came in that time."""
        self.first_s = _mixed(self.first_s, first_s if pages else max(total_s, self.first_s or 0.0))
        if pages > 1:
            self.page_s = _mixed(self.page_s, (total_s - first_s) / (pages - 1))

    def computed(self, tokens: int, seconds: float) -> None:
        """A step took ``seconds`` that computed so many prompt tokens."""
        if tokens >= _LEAST_TOKENS and seconds > 0:
            self.token_s = _mixed(self.token_s, seconds / tokens)

    def fetch_s(self, pages: int) -> float | None:
        """To fetch so many pages."""
        if self.first_s is None or not pages:
            return self.first_s
        each = self.first_s if self.page_s is None else self.page_s
        return self.first_s + (pages - 1) * each

    def compute_s(self, pages: int, ahead: int = 0) -> float | None:
        """To compute so many pages after the ``ahead`` tokens of prompts that come first."""
        if self.token_s is None:
            return None
        return (pages * self._page_size + ahead) * self.token_s

    def fetching_pays(self, pages: int, before: int = 0, ahead: int = 0) -> bool:
        """Whether to fetch, behind ``before`` other pages; what is not known is found out."""
        fetch, compute = self.fetch_s(pages + before), self.compute_s(pages, ahead)
        return fetch is None or compute is None or fetch < compute

    def patience_s(self, pages: int, ahead: int, most_s: float) -> float:
        """How long to wait for pages: no longer than could be lost without much harm."""
        fetch, compute = self.fetch_s(pages), self.compute_s(pages, ahead)
        if compute is None:
            return most_s
        return min(most_s, max(compute / 2, 2 * (fetch or 0.0)))


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
