"""Tasks on words and passages: copying, spelling, ciphers, replacing, sorting."""

from random import Random

from demo.tasks.task import Family, Instance
from demo.tasks.words import ADJECTIVES, NOUNS, PLACES, VERBS

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def _copy(rng: Random) -> Instance:
    size = rng.randint(3, 24)
    words = " ".join(rng.choices(NOUNS + ADJECTIVES, k=size))
    return Instance({"words": words}, words, size)


def _reverse(rng: Random) -> Instance:
    size = rng.randint(2, 14)
    words = rng.choices(NOUNS, k=size)
    return Instance({"words": " ".join(words)}, " ".join(reversed(words)), size)


def _spell(rng: Random) -> Instance:
    size = rng.randint(1, 4)
    words = rng.choices(NOUNS, k=size)
    answer = " / ".join(" ".join(reversed(word)) for word in words)
    return Instance({"words": " ".join(words)}, answer, size)


def _caesar(rng: Random) -> Instance:
    shift, size = rng.randint(1, 4), rng.randint(1, 3)
    words = rng.choices(NOUNS, k=size)
    moved = ALPHABET[shift:] + ALPHABET[:shift]
    table = str.maketrans(ALPHABET, moved)
    answer = " / ".join(" ".join(word.translate(table)) for word in words)
    return Instance({"words": " ".join(words), "shift": str(shift)}, answer, size * shift)


def _capitals(rng: Random) -> Instance:
    size = rng.randint(2, 14)
    words = " ".join(rng.choices(NOUNS, k=size))
    return Instance({"words": words}, words.upper(), size)


def _count_word(rng: Random) -> Instance:
    size = rng.randint(4, 24)
    kinds = rng.sample(NOUNS, rng.randint(2, 4))
    words = rng.choices(kinds, k=size)
    fields = {"word": kinds[0], "words": " ".join(words)}
    return Instance(fields, str(words.count(kinds[0])), size)


def _starting(rng: Random) -> Instance:
    size = rng.randint(4, 20)
    words = rng.sample(NOUNS, size)
    letter = rng.choice(words)[0]
    kept = [word for word in words if word[0] == letter]
    return Instance({"letter": letter, "words": ", ".join(words)}, ", ".join(kept), size)


def _sort_words(rng: Random) -> Instance:
    size = rng.randint(3, 12)
    words = rng.sample(NOUNS, size)
    return Instance({"words": ", ".join(words)}, ", ".join(sorted(words)), size)


def _number_list(rng: Random) -> Instance:
    size = rng.randint(10, 36)
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
    size = rng.randint(6, 20)
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
        "reverse",
        (
            "Write these words in reverse order: {words}",
            "Say this line backwards, word by word: {words}",
            "Turn the order of these words around.\n{words}",
            "Last word first, please: {words}",
        ),
        _reverse,
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
        "caesar",
        (
            "Move every letter {shift} forward in the alphabet: {words}",
            "Use a Caesar cipher with shift {shift} on: {words}",
            "Encode with shift {shift}: {words}",
            "Replace each letter by the one {shift} later (z goes on with a).\n{words}",
        ),
        _caesar,
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
        "starting-with",
        (
            'Which of these words start with "{letter}"? {words}',
            'Keep only the words that begin with "{letter}": {words}',
            'From this list pick every word with first letter "{letter}".\n{words}',
            'List: {words}\nGive the words starting with "{letter}".',
        ),
        _starting,
    ),
    Family(
        "sort-words",
        (
            "Sort alphabetically: {words}",
            "Put these words in alphabetical order: {words}",
            "Order this list from A to Z.\n{words}",
            "Arrange as in a dictionary: {words}",
        ),
        _sort_words,
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
