"""Tasks on numbers: sums with shown steps, sorting, counting on, units and dates."""

from datetime import date, timedelta
from itertools import accumulate, pairwise
from random import Random

from demo.tasks.task import Family, Instance
from demo.tasks.words import MONTHS


def _digits(rng: Random, size: int) -> int:
    return rng.randint(10 ** (size - 1), 10**size - 1)


def _add(rng: Random) -> Instance:
    size = rng.randint(1, 4)
    first, second = _digits(rng, size), _digits(rng, rng.randint(max(1, size - 2), size))
    answer = "\n".join([*_carries(first, second), f"Sum: {first + second}"])
    return Instance({"a": str(first), "b": str(second)}, answer, size)


def _carries(first: int, second: int) -> list[str]:
    """Column addition from the right, one line a digit."""
    lines, carry = [], 0
    while first or second:
        first, a = divmod(first, 10)
        second, b = divmod(second, 10)
        total = a + b + carry
        lines.append(f"{a} + {b} + {carry} = {total}")
        carry = total // 10
    return lines


def _multiply(rng: Random) -> Instance:
    size = rng.randint(1, 3)
    first, second = _digits(rng, size), rng.randint(2, 9)
    parts = [int(d) * 10**place for place, d in enumerate(reversed(str(first))) if d != "0"]
    lines = [f"{part} * {second} = {part * second}" for part in parts]
    totals = accumulate(part * second for part in parts)
    lines += [f"{a} + {b - a} = {b}" for a, b in pairwise(totals)]
    fields = {"a": str(first), "b": str(second)}
    return Instance(fields, "\n".join([*lines, f"Product: {first * second}"]), size)


def _sort_numbers(rng: Random) -> Instance:
    size = rng.randint(3, 8)
    numbers = rng.sample(range(1, 100), size)
    fields = {"numbers": ", ".join(map(str, numbers))}
    return Instance(fields, ", ".join(map(str, sorted(numbers))), size)


def _count_on(rng: Random) -> Instance:
    size, step = rng.randint(20, 40), rng.randint(1, 10)
    start = rng.randint(0, 50)
    numbers = [start + step * place for place in range(size)]
    fields = {"start": str(start), "step": str(step), "end": str(numbers[-1])}
    return Instance(fields, ", ".join(map(str, numbers)), size)


_UNITS = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("feet", "inches", 12),
    ("metres", "centimetres", 100),
    ("kilometres", "metres", 1000),
)


def _units(rng: Random) -> Instance:
    big, small, factor = rng.choice(_UNITS)
    size = rng.randint(1, 3)
    whole = rng.randint(2, (9, 20, 20)[size - 1])
    rest = rng.randint(1, factor - 1) if size > 2 else 0
    amount = f"{whole} {big}" + (f" and {rest} {small}" if rest else "")
    total = whole * factor + rest
    return Instance({"amount": amount, "unit": small}, f"{total} {small}", size)


def _dates(rng: Random) -> Instance:
    size = rng.choice((3, 7, 14, 28))
    start = date(2025, 1, 1) + timedelta(days=rng.randrange(365))
    days = rng.randint(1, size)
    end = start + timedelta(days=days)
    fields = {"date": _day(start), "days": f"{days} days" if days > 1 else "1 day"}
    return Instance(fields, _day(end), size)


def _day(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


FAMILIES = (
    Family(
        "add",
        (
            "What is {a} + {b}? Show every column.",
            "Add {a} and {b} column by column.",
            "Work out {a} + {b} with carries.",
            "Sum of {a} and {b}, step by step?",
        ),
        _add,
    ),
    Family(
        "multiply",
        (
            "What is {a} * {b}? Show the parts.",
            "Multiply {a} by {b} in steps.",
            "Work out {a} times {b}, part by part.",
            "Product of {a} and {b}, with steps?",
        ),
        _multiply,
    ),
    Family(
        "sort-numbers",
        (
            "Sort from smallest to largest: {numbers}",
            "Put these numbers in ascending order: {numbers}",
            "Order these numbers, lowest first.\n{numbers}",
            "Arrange upwards: {numbers}",
        ),
        _sort_numbers,
    ),
    Family(
        "count-on",
        (
            "Count from {start} to {end} in steps of {step}.",
            "Start at {start} and keep adding {step} until {end}.",
            "Write the numbers {start} to {end}, each {step} more than the last.",
            "From {start} up to {end}, list the numbers that lie {step} apart.",
        ),
        _count_on,
        long=True,
    ),
    Family(
        "units",
        (
            "Convert {amount} to {unit}.",
            "How many {unit} are {amount}?",
            "Express {amount} in {unit}.",
            "{amount} is how many {unit}?",
        ),
        _units,
    ),
    Family(
        "dates",
        (
            "What date is {days} after {date}?",
            "Today is {date}. What will the date be in {days}?",
            "Add {days} to {date}.",
            "A parcel sent on {date} takes {days}. When does it arrive?",
        ),
        _dates,
    ),
)
