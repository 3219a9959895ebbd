"""The tasks: four disjoint splits, equal seeds give equal tasks, one right answer each."""

import json
import re
from collections import defaultdict
from datetime import date, timedelta

import pytest

from demo.tasks import FAMILIES, SPLITS, Task, generate, grade, split_of
from demo.tasks.words import MONTHS

SAMPLE = generate("test", seed=5, n=1500)


def of(family: str) -> list[Task]:
    return [task for task in SAMPLE if task.family == family]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_the_split_of_a_prompt_never_changes() -> None:
    golden = {"Please echo: cat": "thresholds", "Spell backwards: dog": "test"}
    assert {prompt: split_of(prompt) for prompt in golden} == golden
    assert split_of("prompt 3") == split_of("prompt 3")


def test_every_hundredth_belongs_to_exactly_one_split() -> None:
    assert sorted(part for owned in SPLITS.values() for part in owned) == list(range(100))


def test_prompts_of_different_splits_never_meet() -> None:
    drawn = {split: {task.prompt for task in generate(split, 1, 300)} for split in SPLITS}
    for split, prompts in drawn.items():
        assert len(prompts) == 300
        assert all(split_of(prompt) == split for prompt in prompts)


def test_equal_seeds_give_equal_tasks_and_other_seeds_do_not() -> None:
    assert generate("test", 9, 50) == generate("test", 9, 50)
    assert generate("test", 9, 50) != generate("test", 10, 50)


def test_there_are_fourteen_families_with_four_phrasings_and_four_long_ones() -> None:
    assert len({family.name for family in FAMILIES}) >= 14
    assert all(len(set(family.phrasings)) >= 4 for family in FAMILIES)
    assert sum(family.long for family in FAMILIES) >= 4


def test_every_family_and_phrasing_is_drawn_and_sizes_vary() -> None:
    seen = defaultdict(set)
    sizes = defaultdict(set)
    for task in SAMPLE:
        seen[task.family].add(task.phrasing)
        sizes[task.family].add(task.size)
    assert all(len(seen[family.name]) == len(family.phrasings) for family in FAMILIES)
    assert all(len(sizes[family.name]) >= 3 for family in FAMILIES)


def test_grading_is_exact_apart_from_surrounding_blanks() -> None:
    task = SAMPLE[0]
    assert grade(task, f"\n {task.answer}  ")
    assert not grade(task, task.answer + ".")
    assert not grade(task, "")


def test_a_sum_is_the_sum() -> None:
    for task in of("add"):
        assert numbers(task.answer)[-1] == sum(numbers(task.prompt))


def test_a_product_is_the_product_and_its_steps_hold() -> None:
    for task in of("multiply"):
        first, second = numbers(task.prompt)
        assert numbers(task.answer)[-1] == first * second


@pytest.mark.parametrize("family", ["add", "multiply"])
def test_every_shown_step_holds(family: str) -> None:
    for task in of(family):
        for left, right in re.findall(r"^([\d +*]+) = (\d+)$", task.answer, re.MULTILINE):
            assert eval(left) == int(right)


def test_sorted_numbers_are_the_same_numbers_in_order() -> None:
    for task in of("sort-numbers"):
        assert numbers(task.answer) == sorted(numbers(task.prompt))


def test_counting_on_keeps_its_step_and_reaches_the_end() -> None:
    for task in of("count-on"):
        counted = numbers(task.answer)
        step = counted[1] - counted[0]
        assert counted == list(range(counted[0], counted[-1] + 1, step))
        assert {counted[0], counted[-1], step} <= set(numbers(task.prompt))


def test_a_date_is_so_many_days_later() -> None:
    for task in of("dates"):
        days = int(re.search(r"(\d+) days?", task.prompt)[1])  # type: ignore[index]
        start = _date(re.search(r"\d+ [A-Z][a-z]+ \d{4}", task.prompt)[0])  # type: ignore[index]
        assert _date(task.answer) - start == timedelta(days=days)


def _date(text: str) -> date:
    day, month, year = text.split()
    return date(int(year), MONTHS.index(month) + 1, int(day))


def test_backwards_and_capitals_can_be_undone() -> None:
    for task in of("spell-backwards"):
        words = [part.replace(" ", "")[::-1] for part in task.answer.split(" / ")]
        assert task.prompt.endswith((" ".join(words), "\n" + " ".join(words)))
    for task in of("capitals"):
        assert task.prompt.endswith(task.answer.lower())


def test_replacing_leaves_no_old_word_and_changes_nothing_else() -> None:
    for task in of("replace-word"):
        first, second = re.findall(r'"(\w+)"', task.prompt)
        new, old = (first, second) if "instead" in task.prompt else (second, first)
        if "in place of" in task.prompt:
            new, old = first, second
        assert not re.search(rf"\b{old}\b", task.answer)
        assert task.answer in re.sub(rf"\b{old}\b", new, task.prompt)


def test_json_answers_are_json() -> None:
    for task in of("make-json"):
        assert len(json.loads(task.answer)) == task.size
    for task in of("edit-json"):
        rows = json.loads(task.answer)
        assert 3 <= len(rows) <= 6 and all(list(row) == list(rows[0]) for row in rows)


def test_an_edit_changes_only_the_rows_it_names() -> None:
    for task in of("edit-json"):
        before = json.loads(task.prompt[task.prompt.index("[") : task.prompt.rindex("]") + 1])
        orders = re.findall(r"set the (\w+) of (\w+) to (\w+)", task.prompt)
        for key, name, value in orders:
            row = next(row for row in before if row["name"] == name)
            row[key] = int(value) if value.isdigit() else value
        assert json.loads(task.answer) == before


def test_ranked_people_agree_with_every_clue() -> None:
    for task in of("order-people"):
        ranked = task.answer.split(", ")
        for more, less in re.findall(r"(\w+) is \w+ than (\w+)\.", task.prompt):
            assert ranked.index(more) < ranked.index(less)


def test_a_count_is_right() -> None:
    for task in of("count-word"):
        word = re.search(r'"(\w+)"', task.prompt)[1]  # type: ignore[index]
        quoted = len(re.findall(rf'"{word}"', task.prompt))
        assert len(re.findall(rf"\b{word}\b", task.prompt)) - quoted == int(task.answer)


@pytest.mark.parametrize("family", ["lookup", "read-table"])
def test_a_looked_up_fact_stands_in_the_text(family: str) -> None:
    for task in of(family):
        assert re.search(rf"\b{task.answer}\b", task.prompt)


def test_a_made_table_holds_every_row_in_order() -> None:
    for task in of("make-table"):
        rows = [row.strip("| ").replace(" | ", ", ") for row in task.answer.splitlines()[2:]]
        assert "; ".join(rows) in task.prompt


def test_a_numbered_list_holds_every_item_in_order() -> None:
    for task in of("number-list"):
        lines = [line.split(". ") for line in task.answer.splitlines()]
        assert [int(place) for place, _ in lines] == list(range(1, task.size + 1))
        assert ", ".join(item for _, item in lines) in task.prompt


def test_long_families_answer_at_length() -> None:
    for family in FAMILIES:
        if family.long:
            lengths = [len(task.answer) for task in of(family.name)]
            assert sum(lengths) / len(lengths) > 100
