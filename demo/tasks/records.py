"""Tasks on records: making and editing JSON, making, reading and sorting tables."""

import json
from random import Random
from typing import NamedTuple

from demo.tasks.task import Family, Instance
from demo.tasks.words import CITIES, COLOURS, FRUITS, JOBS, NAMES


class Person(NamedTuple):
    """One row."""

    name: str
    age: int
    city: str
    job: str


def _people(rng: Random, count: int) -> list[Person]:
    ages = rng.sample(range(10, 99), count)
    names = rng.sample(NAMES, count)
    return [
        Person(name, age, rng.choice(CITIES), rng.choice(JOBS))
        for name, age in zip(names, ages, strict=True)
    ]


def _json(people: list[Person]) -> str:
    rows = ",\n".join("  " + json.dumps(person._asdict()) for person in people)
    return f"[\n{rows}\n]"


def _table(people: list[Person]) -> str:
    rows = [f"| {p.name} | {p.age} | {p.city} | {p.job} |" for p in people]
    return "\n".join(["| name | age | city | job |", "|---|---|---|---|", *rows])


def _make_json(rng: Random) -> Instance:
    size = rng.randint(1, 6)
    fields: dict[str, str | int | bool] = {
        "name": rng.choice(NAMES),
        "age": rng.randint(10, 98),
        "city": rng.choice(CITIES),
        "job": rng.choice(JOBS),
        "colour": rng.choice(COLOURS),
        "fruit": rng.choice(FRUITS),
        "member": rng.random() < 0.5,
        "points": rng.randint(100, 999),
    }
    chosen = {key: fields[key] for key in rng.sample(list(fields), size)}
    facts = ", ".join(f"{key} {_plain(value)}" for key, value in chosen.items())
    return Instance({"facts": facts}, json.dumps(chosen, indent=2), size)


def _plain(value: str | int | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _edit_json(rng: Random) -> Instance:
    size, edits = rng.randint(3, 6), rng.randint(1, 2)
    people = _people(rng, size)
    edited, orders = list(people), []
    for place in rng.sample(range(size), edits):
        key, value = rng.choice(
            (("age", rng.randint(10, 98)), ("city", rng.choice(CITIES)), ("job", rng.choice(JOBS)))
        )
        orders.append(f"set the {key} of {people[place].name} to {value}")
        edited[place] = people[place]._replace(**{key: value})  # type: ignore[arg-type]
    fields = {"data": _json(people), "orders": " and ".join(orders)}
    return Instance(fields, _json(edited), size + edits)


def _make_table(rng: Random) -> Instance:
    size = rng.randint(4, 10)
    people = _people(rng, size)
    rows = "; ".join(f"{p.name}, {p.age}, {p.city}, {p.job}" for p in people)
    return Instance({"rows": rows}, _table(people), size)


def _read_table(rng: Random) -> Instance:
    size = rng.randint(2, 6)
    people = _people(rng, size)
    wanted, key = rng.choice(people), rng.choice(("age", "city", "job"))
    fields = {"table": _table(people), "key": key, "name": wanted.name}
    return Instance(fields, str(getattr(wanted, key)), size)


FAMILIES = (
    Family(
        "make-json",
        (
            "Write this as a JSON object: {facts}",
            "Make JSON from: {facts}",
            "Turn these facts into JSON.\n{facts}",
            "Facts: {facts}\nGive me one JSON object.",
        ),
        _make_json,
    ),
    Family(
        "edit-json",
        (
            "In this JSON, {orders}.\n{data}",
            "{data}\nPlease {orders}, and show all of it.",
            "Edit the data: {orders}.\n\n{data}",
            "Here is some JSON:\n{data}\nNow {orders}.",
        ),
        _edit_json,
        long=True,
    ),
    Family(
        "make-table",
        (
            "Make a Markdown table with name, age, city and job: {rows}",
            "Put these people into a table.\n{rows}",
            "Turn this into a Markdown table: {rows}",
            "Rows: {rows}\nShow them as a table.",
        ),
        _make_table,
        long=True,
    ),
    Family(
        "read-table",
        (
            "{table}\nWhat is the {key} of {name}?",
            "What {key} does this table give for {name}?\n{table}",
            "Read the table: {key} of {name}?\n\n{table}",
            "{table}\n\nTell me {name}'s {key}.",
        ),
        _read_table,
    ),
)
