"""Different JSON values have different canonical bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.canonical import NotCanonical, canonical, canonical_fields

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def exact(value: Any) -> Any:
    """A value that is equal to another only if both are the same JSON, in the same order."""
    if isinstance(value, dict):
        return ("object", [(key, exact(inner)) for key, inner in value.items()])
    if isinstance(value, list):
        return ("array", [exact(inner) for inner in value])
    return (type(value).__name__, repr(value))


@given(values, values)
def test_two_values_share_their_bytes_exactly_when_they_are_the_same(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (exact(one) == exact(other))


@given(values, values)
def test_no_value_is_a_prefix_of_another(one: Any, other: Any) -> None:
    """So concatenations cannot be confused either."""
    if exact(one) != exact(other):
        assert not canonical(other).startswith(canonical(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["org_1", "2345"], ["org_12345", ""]),
        (["a", ["b"]], [["a"], "b"]),
        ([1, 2], [12]),
        (["1"], [1]),
        ([True], [1]),
        ([None], ["null"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {}}, {"a": []}),
        ("\u00e9", "e\u0301"),
        ([1], [1.0]),
    ],
)
def test_what_has_been_confused_elsewhere_is_not_confused_here(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {"a": b"x"}, {1: 2}, {"a"}, object()]
)
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: Any = []
    for _ in range(100):
        value = [value]
    with pytest.raises(NotCanonical):
        canonical(value)


@given(st.dictionaries(st.text(max_size=4), scalars, max_size=5), st.randoms())
def test_the_order_of_a_requests_fields_means_nothing(fields: dict[str, Any], dice: Any) -> None:
    items = list(fields.items())
    dice.shuffle(items)
    assert canonical_fields(dict(items)) == canonical_fields(fields)


def test_a_fields_zero_is_zero_however_it_is_written() -> None:
    assert canonical_fields({"temperature": 0}) == canonical_fields({"temperature": 0.0})
    assert canonical_fields({"temperature": -0.0}) == canonical_fields({"temperature": 0})
    assert canonical_fields({"temperature": 0.5}) != canonical_fields({"temperature": 0})
    assert canonical_fields({"stream": False}) != canonical_fields({"stream": 0})
