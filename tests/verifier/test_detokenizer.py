"""Incremental text against decoding everything at once, and stop strings against a plain scan."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.detokenizer import StopScanner, TextPieces
from verifier.loading import LoadedModel

LETTERS = st.text(alphabet="ab\nc", max_size=12)


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_join_to_the_text_and_never_split_a_code_point(
    llama: LoadedModel, text: str
) -> None:
    tokens = llama.encode(text)
    pieces = TextPieces(llama.decode)
    parts = [pieces.push(token) for token in tokens]
    joined = "".join(parts) + pieces.flush()
    assert joined == llama.decode(tokens)
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)


@settings(deadline=None)
@given(tokens=st.lists(st.integers(0, 319), max_size=25))
def test_pieces_of_any_tokens_join_to_what_decoding_them_gives(
    llama: LoadedModel, tokens: list[int]
) -> None:
    pieces = TextPieces(llama.decode)
    assert "".join(map(pieces.push, tokens)) + pieces.flush() == llama.decode(tokens)


def plain_scan(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The first stop string to be completed, one character after the other."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(LETTERS, max_size=8), st.lists(LETTERS.filter(bool), max_size=4))
def test_the_earliest_stop_wins_however_the_text_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    released, found = "", None
    for piece in pieces:
        text, found = scanner.push(piece)
        released += text
        if found is not None:
            break
    else:
        released += scanner.flush()
    assert (released, found) == plain_scan("".join(pieces), stops)


@given(st.lists(LETTERS, max_size=8), st.lists(LETTERS.filter(bool), max_size=4))
def test_what_was_released_never_begins_a_stop_string_that_is_completed_later(
    pieces: list[str], stops: list[str]
) -> None:
    scanner, released = StopScanner(stops), ""
    expected, _ = plain_scan("".join(pieces), stops)
    for piece in pieces:
        text, found = scanner.push(piece)
        released += text
        assert expected.startswith(released)
        if found is not None:
            return


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    scanner = StopScanner(["END"])
    assert scanner.push("all fine") == ("all fine", None)
    assert scanner.push(" E") == (" ", None)
    assert scanner.push("x") == ("Ex", None)


def test_a_stop_string_is_text_while_stopping_is_not_allowed() -> None:
    scanner = StopScanner(["b"])
    assert scanner.push("abc", may_stop=False) == ("abc", None)
    assert scanner.push("ab") == ("a", "b")
