"""Shares out what a draft model reads at one step, so that no step waits for a long text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Behind(NamedTuple):
    """A request whose text the draft model has yet to read."""

    unread: int  # rows before that of the newest token
    worth: bool = True  # whether reading them is expected to pay


class Turns(NamedTuple):
    """Who drafts at this step, and who reads on instead."""

    ready: list[int]  # ascending places; all they have to read fits one step
    chunk: int | None = None  # place of the one that reads a part
    rows: int = 0  # of that part


def share_out(behind: Sequence[Behind], rows: int) -> Turns:
    """Give each its turn, of ``rows`` to read altogether.

    Who has least to read comes first, so that a long text delays nobody, and two of them are read
    one after the other. Who is not worth reading for comes last, and never reads a part.
    """
    if sum(one.unread for one in behind) <= rows:
        return Turns(list(range(len(behind))))
    ready: list[int] = []
    for place in sorted(range(len(behind)), key=lambda place: _turn(behind[place])):
        one = behind[place]
        if one.unread <= rows:
            ready.append(place)
            rows -= one.unread
        elif one.worth and rows > 0:
            return Turns(sorted(ready), place, rows)
    return Turns(sorted(ready))


def _turn(one: Behind) -> tuple[bool, int]:
    return one.unread > 0 and not one.worth, one.unread
