"""Local, language-neutral features of a request: hashed n-grams and numbers about its structure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router_model.request_text import Request, RequestText, request_text

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint32]

FEATURES_VERSION = 1
WORD_BITS, CHAR_BITS = 12, 11
HASHED_SIZE = (1 << WORD_BITS) + (1 << CHAR_BITS)
MAX_CHARS = 8_000
"""Of a longer text only its beginning and its end, half of this each, are read."""

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_TO_ZERO = str.maketrans("123456789", "000000000")
_EDGE_WORDS = 4
_MIX = np.uint32(0x9E3779B1)
_GRAM_FACTORS = np.array([0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1], dtype=np.uint32)

_COUNTED = ",.:;?!\"|{[+-*/=()'\n#"
_COUNTED_CODES = np.array([ord(char) for char in _COUNTED])
NUMERIC_NAMES: tuple[str, ...] = (
    "chars",
    "words",
    "lines",
    "distinct_words",
    "commonest_word",
    "mean_word_chars",
    "longest_word_chars",
    "longest_line_chars",
    "first_line_chars",
    "last_line_chars",
    "numbers",
    "digits",
    "digits_from_5",
    "longest_number_digits",
    "shortest_number_digits",
    "first_number",
    "second_number",
    "last_number",
    "largest_number",
    "upper_letters",
    "capitalised_words",
    "quoted_word_uses",
    "non_ascii",
    "bracket_depth",
    "turns",
    "earlier_chars",
    "system_chars",
    *(f"count_{ord(char):02x}" for char in _COUNTED),
)


class Features(NamedTuple):
    """Features of one request.

    ``numeric`` (len(NUMERIC_NAMES),), each log(1 + x), ``hashed`` (HASHED_SIZE,), both float64;
    ``words`` are the distinct words asked about, lower case, to compare an answer with.
    """

    numeric: Floats
    hashed: Floats
    words: frozenset[str]


def extract(request: Request) -> Features:
    """Features of a prompt or of chat messages; never raises on any text."""
    text = request_text(request)
    asked = _shortened(text.asked)
    lowered = _normal(asked)
    words = _WORD.findall(lowered)
    numeric = _numeric(asked, words, text)
    hashed = np.concatenate([_hashed_words(words, text), _hashed_chars(lowered)])
    return Features(numeric, hashed, frozenset(words))


def _shortened(text: str) -> str:
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else text[:half] + text[-half:]


def _normal(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _hashed_words(words: list[str], text: RequestText) -> Floats:
    """Words, pairs of words, and the first and last words by place; numbers by their length."""
    shapes = [word.translate(_TO_ZERO) for word in words]
    singles = _word_hashes(shapes)
    parts = [singles, _paired(singles), _placed(singles[:_EDGE_WORDS], 1)]
    parts.append(_placed(singles[-_EDGE_WORDS:], 100))
    for place, other in ((1000, text.system), (2000, text.earlier)):
        if other:
            found = _WORD.findall(_normal(_shortened(other)))
            parts.append(_word_hashes(found) + np.uint32(place))
    return _folded(np.concatenate(parts), WORD_BITS)


def _word_hashes(words: list[str]) -> Hashes:
    return np.array([_word_hash(word) for word in words], dtype=np.uint32)


def _word_hash(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"))


def _paired(singles: Hashes) -> Hashes:
    return (singles[:-1] * _MIX) ^ singles[1:]


def _placed(singles: Hashes, first: int) -> Hashes:
    places: Hashes = np.arange(first, first + len(singles), dtype=np.uint32)
    return singles * _MIX + places


def _hashed_chars(lowered: str) -> Floats:
    codes = _codes(lowered.translate(_TO_ZERO))
    return _folded(np.concatenate([_grams(codes, 3), _grams(codes, 4)]), CHAR_BITS)


def _grams(codes: NDArray[np.uint32], size: int) -> Hashes:
    count = max(0, len(codes) - size + 1)
    total = np.zeros(count, dtype=np.uint32)
    for place in range(size):
        total += codes[place : place + count] * _GRAM_FACTORS[place]
    return total ^ (total >> np.uint32(15))


def _folded(hashes: Hashes, bits: int) -> Floats:
    """Signed, sublinear counts of hashes in 2**bits places, of length one (or all zero)."""
    mixed = hashes * _MIX
    signs = 1.0 - 2.0 * ((mixed >> np.uint32(8)) & np.uint32(1))
    counts = np.bincount(mixed >> np.uint32(32 - bits), weights=signs, minlength=1 << bits)
    scaled = np.sign(counts) * np.log1p(np.abs(counts))
    return scaled / max(float(np.sqrt(scaled @ scaled)), 1e-12)


def _numeric(asked: str, words: list[str], text: RequestText) -> Floats:
    codes = _codes(asked)
    ascii_counts = np.bincount(np.minimum(codes, 128), minlength=129)
    values = [
        *_word_numbers(asked, words),
        *_number_numbers(_NUMBER.findall(asked), ascii_counts),
        *_shape_numbers(codes, ascii_counts, words, asked),
        text.turns,
        len(text.earlier),
        len(text.system),
    ]
    counts = ascii_counts[_COUNTED_CODES]
    logarithms: Floats = np.log1p(np.concatenate([np.array(values, dtype=np.float64), counts]))
    return logarithms


def _word_numbers(asked: str, words: list[str]) -> tuple[float, ...]:
    lines = asked.split("\n")
    lengths = [len(word) for word in words] or [0]
    counts = Counter(words)
    return (
        len(asked),
        len(words),
        len(lines),
        len(counts),
        max(counts.values(), default=0),
        sum(lengths) / len(lengths),
        max(lengths),
        max(map(len, lines)),
        len(lines[0]),
        len(lines[-1]),
    )


def _number_numbers(numbers: list[str], ascii_counts: NDArray[np.int64]) -> tuple[float, ...]:
    sizes = [len(number) for number in numbers] or [0]
    values = [float(number[:15]) for number in numbers[:64]] or [0.0]
    return (
        len(numbers),
        int(ascii_counts[48:58].sum()),
        int(ascii_counts[53:58].sum()),
        max(sizes),
        min(sizes),
        values[0],
        values[1] if len(values) > 1 else 0.0,
        values[-1],
        max(values),
    )


def _shape_numbers(
    codes: NDArray[np.uint32], ascii_counts: NDArray[np.int64], words: list[str], asked: str
) -> tuple[float, ...]:
    depth = _BRACKET_STEPS[np.minimum(codes, 128)].cumsum()
    return (
        int(ascii_counts[65:91].sum()),
        sum(1 for word in asked.split() if word[0].isupper()),
        _quoted_uses(asked, words),
        int(ascii_counts[128]),
        int(depth.max(initial=0)),
    )


def _bracket_steps() -> NDArray[np.int64]:
    steps = np.zeros(129, dtype=np.int64)
    steps[[ord("{"), ord("[")]] = 1
    steps[[ord("}"), ord("]")]] = -1
    return steps


_BRACKET_STEPS = _bracket_steps()


def _quoted_uses(asked: str, words: list[str]) -> int:
    """How often the first word in double quotes occurs, the quotation included."""
    parts = asked.split('"', 2)
    return words.count(_normal(parts[1])) if len(parts) == 3 else 0


@cache
def features_digest() -> str:
    """What a saved model must agree on: hashing, sizes and the names of the numbers."""
    described = (FEATURES_VERSION, WORD_BITS, CHAR_BITS, MAX_CHARS, _EDGE_WORDS, NUMERIC_NAMES)
    probe = extract("Sum of 12 and 7?\nIch heiße {Zoë}.")
    numbers = np.concatenate([probe.numeric, probe.hashed]).round(6)
    return f"{crc32(repr(described).encode() + (numbers + 0.0).tobytes()):08x}"
