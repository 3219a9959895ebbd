"""What counts as asked, as said earlier, and as a turn."""

from __future__ import annotations

from router_model.request_text import request_text


def test_a_prompt_is_one_turn() -> None:
    assert request_text("Add 1 and 2.") == ("Add 1 and 2.", "", "", 1)


def test_the_last_turn_is_asked_and_the_others_came_earlier() -> None:
    found = request_text(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
    )
    assert found == ("three", "one\ntwo", "Be brief.", 3)


def test_parts_of_content_are_joined_and_pictures_skipped() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    assert request_text([{"role": "user", "content": parts}]).asked == "a\nb"


def test_a_system_message_alone_is_what_is_asked() -> None:
    assert request_text([{"role": "developer", "content": "Say hello."}]).asked == "Say hello."


def test_messages_without_text_are_empty_not_errors() -> None:
    assert request_text([{"role": "assistant", "content": None}, {"role": "user"}]).asked == ""
