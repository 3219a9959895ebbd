"""One answer out of several tellings of it: what was said already is checked, never repeated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gateway.errors import TierBroken
from gateway.generation import AnswerEvent, Delta, Finished, Started


class Differs(TierBroken):
    """A second telling is not the same answer, so the first one cannot be continued."""


@dataclass(slots=True)
class _Said:
    """What is known of one choice, and how much of it a new telling has repeated."""

    text: str = ""
    logprobs: int = 0  # entries
    finish_reason: str | None = None
    text_told: int = 0
    logprobs_told: int = 0

    def told_all(self) -> bool:
        return self.text_told == len(self.text)


@dataclass(slots=True)
class Splice:
    """Passes on an answer; after ``restart`` takes it from the top and passes on what is new."""

    _started: Started | None = None
    _said: dict[int, _Said] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether anything was passed on."""
        return self._started is not None

    def restart(self) -> None:
        """The next event is the first of another telling."""
        for said in self._said.values():
            said.text_told = said.logprobs_told = 0

    def take(self, event: AnswerEvent) -> Iterator[AnswerEvent]:
        """What of ``event`` is news.

        Raises:
            Differs: this telling contradicts what was passed on.
        """
        if isinstance(event, Started):
            yield from self._start(event)
        elif isinstance(event, Finished):
            if not all(said.told_all() for said in self._said.values()):
                raise Differs("the answer ended before what was said of it")
            yield event
        else:
            news = self._more(self._said.setdefault(event.choice, _Said()), event)
            if news.text or news.logprobs or news.finish_reason:
                yield news

    def _start(self, event: Started) -> Iterator[AnswerEvent]:
        if self._started is None:
            self._started = event
            yield event
        elif self._started.tier != event.tier:
            raise Differs(f"{event.tier!r} answers what {self._started.tier!r} had begun to")

    def _more(self, said: _Said, delta: Delta) -> Delta:
        known = min(len(said.text) - said.text_told, len(delta.text))
        if not said.text.startswith(delta.text[:known], said.text_told):
            raise Differs("the answer is not what was said of it")
        if said.finish_reason is not None and delta.text[known:]:
            raise Differs("the answer goes on where it had ended")
        said.text += delta.text[known:]
        said.text_told += len(delta.text)
        entries = delta.logprobs or ()
        skipped = min(said.logprobs - said.logprobs_told, len(entries))
        said.logprobs_told += len(entries)
        said.logprobs = max(said.logprobs, said.logprobs_told)
        reason = self._end(said, delta.finish_reason)
        if not known and not skipped and reason == delta.finish_reason:
            return delta
        text, logprobs = delta.text[known:], entries[skipped:] or None
        return replace(delta, text=text, logprobs=logprobs, finish_reason=reason)

    def _end(self, said: _Said, reason: str | None) -> str | None:
        """The finish reason, unless it was passed on before."""
        if reason is None:
            return None
        if not said.told_all() or said.finish_reason not in (None, reason):
            raise Differs("the answer ends otherwise than what was said of it")
        known, said.finish_reason = said.finish_reason, reason
        return reason if known is None else None
