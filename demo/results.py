"""What was measured: as a JSON file, and as the table in the README."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.tasks import FAMILIES

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
OVERALL = "overall"


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown: a row a family, a column a model."""
    models = results["models"]
    long = {family.name for family in FAMILIES if family.long}
    rows = [
        ["family", "answers", *models],
        ["---", "---", *("---:" for _ in models)],
        *(
            [name, "long" if name in long else "short", *_shares(models, name)]
            for name in sorted(next(iter(models.values()))["right"])
            if name != OVERALL
        ),
        ["**all**", "", *_shares(models, OVERALL)],
        ["parameters", "", *(f"{models[name]['parameters']:,}" for name in models)],
        ["megabytes", "", *(f"{models[name]['bytes'] / 1e6:.1f}" for name in models)],
    ]
    return "\n".join(map(_row, rows))


def _shares(models: Mapping[str, Any], family: str) -> list[str]:
    return [f"{models[name]['right'][family]:.0%}" for name in models]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(results: Mapping[str, Any], file: Path, readme: Path) -> None:
    """Store the results, and put their table between the README's markers."""
    file.write_text(json.dumps(results, indent=1) + "\n")
    text = readme.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{table(results)}\n{after}")
