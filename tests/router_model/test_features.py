"""Features are stable, finite and bounded whatever the text."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_model.features import (
    HASHED_SIZE,
    MAX_CHARS,
    NUMERIC_NAMES,
    WORD_BITS,
    extract,
    features_digest,
)


def number(prompt: str, name: str) -> float:
    """One numeric feature, as the count it is the logarithm of."""
    return float(np.expm1(extract(prompt).numeric[NUMERIC_NAMES.index(name)]))


@settings(deadline=None)
@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_gives_finite_features_of_the_same_shape(text: str) -> None:
    found = extract(text)
    assert found.numeric.shape == (len(NUMERIC_NAMES),)
    assert found.hashed.shape == (HASHED_SIZE,)
    assert np.isfinite(found.numeric).all()
    assert np.isfinite(found.hashed).all()


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_another_process_with_another_hash_seed_finds_the_same_features(seed: str) -> None:
    code = "from router_model.features import features_digest; print(features_digest())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == features_digest()


def test_hashed_blocks_have_length_one() -> None:
    hashed = extract("Put these numbers in order: 3, 1, 2").hashed
    words, chars = hashed[: 1 << WORD_BITS], hashed[1 << WORD_BITS :]
    assert np.linalg.norm(words) == pytest.approx(1.0)
    assert np.linalg.norm(chars) == pytest.approx(1.0)


def test_words_in_another_script_are_words() -> None:
    assert extract("Сколько будет два плюс два?").words == {"сколько", "будет", "два", "плюс"}
    assert number("数字を並べて: 3 1 2", "numbers") == pytest.approx(3)


def test_compatibility_forms_read_alike() -> None:
    wide = extract("ＡＤＤ").words
    assert wide == extract("add").words


@pytest.mark.parametrize(
    ("prompt", "name", "expected"),
    [
        ("What is 1234 + 56?", "numbers", 2),
        ("What is 1234 + 56?", "longest_number_digits", 4),
        ("What is 1234 + 56?", "first_number", 1234),
        ("What is 1234 + 56?", "second_number", 56),
        ("What is 1934 + 56?", "digits_from_5", 3),
        ('How often is "a" here? b a b a', "quoted_word_uses", 3),
        ('{"a": [1, {"b": 2}]}', "bracket_depth", 3),
        ("one\ntwo\nthree", "lines", 3),
        ("ab ab ab cd", "commonest_word", 3),
        ("a, b, c", "count_2c", 2),
    ],
)
def test_a_number_says_what_its_name_says(prompt: str, name: str, expected: float) -> None:
    assert number(prompt, name) == pytest.approx(expected)


def test_all_turns_and_the_system_prompt_are_seen() -> None:
    alone = extract("Add 1.")
    told = extract(
        [
            {"role": "system", "content": "Answer in French."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "Add 1."},
        ]
    )
    turns, earlier = NUMERIC_NAMES.index("turns"), NUMERIC_NAMES.index("earlier_chars")
    assert np.expm1(told.numeric[turns]) == pytest.approx(3)
    assert told.numeric[earlier] > alone.numeric[earlier]
    assert not np.allclose(told.hashed, alone.hashed)


def test_of_a_long_text_both_ends_are_read_and_no_more() -> None:
    text = "begin " + "x " * 50_000 + "end"
    assert {"begin", "end"} <= extract(text).words
    assert number(text, "chars") == pytest.approx(MAX_CHARS)


def test_numbers_of_one_length_hash_alike() -> None:
    one, other = extract("Add 123 please"), extract("Add 987 please")
    assert np.allclose(one.hashed, other.hashed)
