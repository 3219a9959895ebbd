"""Tasks on words and passages: copying, spelling, ciphers, replacing, sorting."""

from random import Random

from demo.tasks.task import Family, Instance
from demo.tasks.words import ADJECTIVES, NOUNS, PLACES, VERBS


def _copy(rng: Random) -> Instance:
    size = rng.randint(2, 12)
    words = " ".join(rng.choices(NOUNS + ADJECTIVES, k=size))
    return Instance({"words": words}, words, size)


def _spell(rng: Random) -> Instance:
    size = rng.randint(1, 3)
    words = rng.choices(NOUNS, k=size)
    answer = " / ".join(" ".join(reversed(word)) for word in words)
    return Instance({"words": " ".join(words)}, answer, size)


def _capitals(rng: Random) -> Instance:
    size = rng.randint(2, 8)
    words = " ".join(rng.choices(NOUNS, k=size))
    return Instance({"words": words}, words.upper(), size)


def _count_word(rng: Random) -> Instance:
    size = rng.randint(3, 10)
    kinds = rng.sample(NOUNS, rng.randint(2, 3))
    words = rng.choices(kinds, k=size)
    fields = {"word": kinds[0], "words": " ".join(words)}
    return Instance(fields, str(words.count(kinds[0])), size)


def _number_list(rng: Random) -> Instance:
    size = rng.randint(8, 24)
    items = [f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}" for _ in range(size)]
    answer = "\n".join(f"{place}. {item}" for place, item in enumerate(items, 1))
    return Instance({"items": ", ".join(items)}, answer, size)


def _sentence(rng: Random, nouns: list[str]) -> str:
    first, second = rng.sample(nouns, 2)
    middle = f"{rng.choice(VERBS)} the {second}"
    if rng.random() < 0.5:
        middle += f" {rng.choice(PLACES)} the {rng.choice(NOUNS)}"
    return f"The {rng.choice(ADJECTIVES)} {first} {middle}."


def _replace(rng: Random) -> Instance:
    size = rng.randint(6, 14)
    *nouns, new = rng.sample(NOUNS, 6)
    passage = " ".join(_sentence(rng, nouns) for _ in range(size))
    old = rng.choice([noun for noun in nouns if noun in passage.replace(".", "").split()])
    answer = " ".join(_swap(word, old, new) for word in passage.split())
    return Instance({"old": old, "new": new, "text": passage}, answer, size)


def _swap(word: str, old: str, new: str) -> str:
    return new + word[len(old) :] if word.rstrip(".") == old else word


FAMILIES = (
    Family(
        "copy",
        (
            "Repeat these words exactly: {words}",
            "Copy this line word for word.\n{words}",
            "Say the following back to me: {words}",
            "Please echo: {words}",
        ),
        _copy,
    ),
    Family(
        "spell-backwards",
        (
            "Spell backwards: {words}",
            "Write each of these words from its last letter to its first: {words}",
            "Give the letters of every word in reverse.\n{words}",
            "How do you spell this backwards? {words}",
        ),
        _spell,
    ),
    Family(
        "capitals",
        (
            "Write in capital letters: {words}",
            "Put this line in upper case: {words}",
            "SHOUT this: {words}",
            "Change all letters to capitals.\n{words}",
        ),
        _capitals,
    ),
    Family(
        "count-word",
        (
            'How many times does "{word}" appear? {words}',
            'Count the word "{word}" in this line: {words}',
            'How often is "{word}" written here?\n{words}',
            'Text: {words}\nNumber of times "{word}" occurs?',
        ),
        _count_word,
    ),
    Family(
        "number-list",
        (
            "Make a numbered list, one item a line: {items}",
            "Number these items from 1: {items}",
            "Turn this into a numbered list.\n{items}",
            "Items: {items}\nWrite them below each other with numbers.",
        ),
        _number_list,
        long=True,
    ),
    Family(
        "replace-word",
        (
            'Replace every "{old}" with "{new}".\n\n{text}',
            'Rewrite the text with "{new}" in place of "{old}":\n{text}',
            'In this passage, change "{old}" to "{new}".\n{text}',
            '{text}\n\nWrite that again, but with "{new}" instead of "{old}".',
        ),
        _replace,
        long=True,
    ),
)
