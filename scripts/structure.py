"""Writes docs/structure.md: every package and file with the first sentence of its docstring."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/structure.md"
PACKAGES = {
    "gateway": "Every HTTP face: the front end, the admin API, the engine server, caches, tiers.",
    "verifier": "The engine: runs target models over many requests and verifies draft trees.",
    "drafting": "What a draft tree is, and every source that can propose one. Knows tokens only.",
    "kernels": "Tree attention and its companions. Knows tensors only.",
    "router_model": "Text and numbers in, calibrated probabilities out. No HTTP, no torch.",
    "demo": "The ladder that ships: tasks with known answers, and the code that trains on them.",
    "benchmarks": "Every figure the documentation states, and the command that measures it.",
}
INTRODUCTION = """# Structure

Written by `python scripts/structure.py` from the first sentence of every file.

Imports run downward only, held by import-linter:

```
gateway -> verifier -> drafting | kernels
gateway -> router_model
```

Inside `gateway`, only `gateway/engine/` may import the packages below it and torch: the front end
runs without them. `demo/`, `benchmarks/` and `tests/` stand beside the packages and import them,
never the reverse. `tests/` mirrors the tree.
"""


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<=[.?!])\s+(?=[A-Z`])", " ".join(docstring.split()))[0]


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for package, purpose in PACKAGES.items():
        parts.append(f"\n## {package}\n\n{purpose}\n\n| file | what it knows |\n|---|---|\n")
        parts += [f"| `{path.relative_to(ROOT)}` | {sentence(path)} |\n" for path in files(package)]
    return "".join(parts)


def files(package: str) -> Iterator[Path]:
    """Tracked files of a package; an `__init__.py` only if it says something."""
    tracked = subprocess.run(
        ["git", "ls-files", f"{package}/*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    paths = (ROOT / line for line in sorted(tracked))
    return (
        path for path in paths if path.exists() and (path.name != "__init__.py" or sentence(path))
    )


if __name__ == "__main__":
    PAGE.write_text(page())
