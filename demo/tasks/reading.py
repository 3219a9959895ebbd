"""Tasks on short texts: looking up facts, ordering people by clues, extracting."""

from itertools import pairwise
from random import Random

from demo.tasks.task import Family, Instance
from demo.tasks.words import CITIES, COLOURS, JOBS, NAMES

_FACTS = (
    ("{name} lives in {value}.", "Which city does {name} live in?", CITIES),
    ("{name} works as a {value}.", "What is {name}'s job?", JOBS),
    ("{name} has a {value} car.", "What colour is {name}'s car?", COLOURS),
)


def _lookup(rng: Random) -> Instance:
    size = rng.randint(1, 6)
    facts = []
    for name in rng.sample(NAMES, size):
        for says, asks, values in rng.sample(_FACTS, rng.randint(1, 2)):
            value = rng.choice(values)
            facts.append((says.format(name=name, value=value), asks.format(name=name), value))
    rng.shuffle(facts)
    _, question, answer = rng.choice(facts)
    return Instance({"text": " ".join(f[0] for f in facts), "question": question}, answer, size)


_RELATIONS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("richer", "richest", "poorest"),
)


def _order(rng: Random) -> Instance:
    size = rng.randint(3, 6)
    people = rng.sample(NAMES, size)
    more, most, least = rng.choice(_RELATIONS)
    clues = [f"{a} is {more} than {b}." for a, b in pairwise(people)]
    rng.shuffle(clues)
    fields = {"clues": " ".join(clues), "most": most, "least": least}
    return Instance(fields, ", ".join(people), size)


FAMILIES = (
    Family(
        "lookup",
        (
            "{text} {question}",
            "Read this and answer. {text}\n{question}",
            "{question}\n{text}",
            "Text: {text}\nQuestion: {question}",
        ),
        _lookup,
    ),
    Family(
        "order-people",
        (
            "{clues} List everybody from {most} to {least}.",
            "Order these people, {most} first. {clues}",
            "{clues}\nWho is who, from the {most} to the {least}?",
            "Use the clues to rank all from {most} to {least}.\n{clues}",
        ),
        _order,
    ),
)
