"""Every family of tasks, in one list."""

from demo.tasks import numbers, reading, records, text
from demo.tasks.task import Family

FAMILIES: tuple[Family, ...] = (
    *text.FAMILIES,
    *numbers.FAMILIES,
    *reading.FAMILIES,
    *records.FAMILIES,
)
