"""How wide a margin rounding has turned, on several models: what the stated bounds rest on."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from verifier.certificate_bench import Bench
from verifier.certificate_cases import Cell
from verifier.certificate_results import CertificateOptions
from verifier.loading import Dtype, load_model

LADDER = Path("demo/ladder")
RESULTS = Path("benchmarks/results")
CELLS = (
    Cell(frozenset({"adversary_deep"}), 32, "together"),
    Cell(frozenset({"adversary_bush"}), 32, "alone"),
    Cell(frozenset({"adversary_random"}), 32, "together"),
    Cell(frozenset({"adversary_corrupted"}), 5, "tight"),
)


class Subject(NamedTuple):
    """A model to measure; its logits are made ``loudness`` times as large."""

    name: str
    loudness: float = 1.0
    layers: int = 0  # of a random Llama; 0: one of the ladder
    width: int = 0


SUBJECTS = (
    *(Subject(name) for name in ("brook", "creek", "river")),
    *(Subject("brook", loudness) for loudness in (0.25, 3.0, 8.0)),
    Subject("river", 8.0),
    Subject("random", 1.0, layers=4, width=256),
    Subject("random", 8.0, layers=4, width=256),
    Subject("random", 1.0, layers=12, width=768),
)


def main() -> None:
    """Measure every subject in both number formats; JSON and a table grow as it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for subject in SUBJECTS:
        with made(subject) as folder:
            rows += [measured(subject, folder, dtype) for dtype in ("float32", "bfloat16")]
        (options.out / "margins.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "margins.md").write_text(table(rows))


@contextmanager
def made(subject: Subject) -> Iterator[Path]:
    """A directory with the subject's weights and the ladder's tokenizer."""
    source = LADDER / (subject.name if not subject.layers else "river")
    with tempfile.TemporaryDirectory() as folder:
        network = random_llama(subject) if subject.layers else _loaded(source)
        with torch.no_grad():
            network.model.norm.weight.mul_(subject.loudness)
        network.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        yield Path(folder)


def random_llama(subject: Subject) -> Any:
    """Weights as they are initialised: nothing was learned, all tokens are near each other."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=subject.width,
        intermediate_size=subject.width * 8 // 3,
        num_hidden_layers=subject.layers,
        num_attention_heads=subject.width // 64,
        num_key_value_heads=subject.width // 128,
        max_position_embeddings=1024,
        eos_token_id=2,
        bos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config)


def _loaded(source: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(source)


def measured(subject: Subject, folder: Path, dtype: Dtype) -> dict[str, Any]:
    """What came of all cells: how many texts differ, and at how wide a margin."""
    model = load_model(folder, dtype=dtype, name="target")
    large = subject.width >= 512
    extent = CertificateOptions(requests=6 if large else 27, tokens=8 if large else 16)
    bench = Bench(model, None, dtype, extent)
    results = [bench.cell(cell) for cell in CELLS]
    margins = [one.margin for cell in results for one in cell.differences]
    own = [margin for one in bench.plain for margin in one.margins]
    return {
        "model": f"{subject.name} {subject.layers} x {subject.width}"
        if subject.layers
        else subject.name,
        "loudness": subject.loudness,
        "dtype": dtype,
        "texts": sum(cell.requests for cell in results),
        "differ": len(margins),
        "widest": max(margins, default=0.0),
        "bound": bench.bound,
        "unexplained": sum(not one.explained for cell in results for one in cell.differences),
        "logprob_deviation": max(cell.deviation for cell in results),
        "decisions": len(own),
        "narrow_share": sum(margin < bench.bound for margin in own) / max(len(own), 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Margins that rounding has turned",
        "",
        "Written by `python -m benchmarks.margins`. *Loudness*: a factor of all logits.",
        "*Widest*: the largest margin at which a text first departed from the plain loop's; in",
        "bfloat16 as a share of the likeliest token's logit, where that is above 1.",
        "",
        "| model | loudness | format | texts | differ | widest | bound | unexplained "
        "| log-prob deviation | narrow decisions |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['loudness']:g} | {row['dtype']} | {row['texts']} "
            f"| {row['differ']} | {row['widest']:.2g} | {row['bound']:.2g} | {row['unexplained']} "
            f"| {row['logprob_deviation']:.1e} | {row['narrow_share']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
