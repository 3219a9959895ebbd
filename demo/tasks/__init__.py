"""Generated questions with exactly one right answer, in four splits that never share a prompt.

Nothing here imports torch, so benchmarks, the router's trainer and tests may use it freely.
"""

from demo.tasks.families import FAMILIES
from demo.tasks.generator import generate, grade
from demo.tasks.task import SPLITS, Family, Split, Task, split_of

__all__ = ["FAMILIES", "SPLITS", "Family", "Split", "Task", "generate", "grade", "split_of"]
