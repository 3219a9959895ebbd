"""Tables are put into a page without touching the rest of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router_model.report import BEGIN, END, table, with_measured


def test_a_table_has_a_head_a_rule_and_rows() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
    assert with_measured(page, "new") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nThe end.\n"


def test_a_page_without_marks_gets_them_at_its_end() -> None:
    assert with_measured("# Title\n", "new") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n"


@given(st.text(st.characters(codec="utf-8", exclude_characters="<")))
def test_measuring_again_changes_nothing_else(page: str) -> None:
    once = with_measured(page, "old")
    assert with_measured(once, "new") == once.replace("old", "new") or "old" in page
