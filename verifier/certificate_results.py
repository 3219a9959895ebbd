"""What a certificate says: every run, every difference and whether it is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verifier.certificate_cases import Cell
from verifier.certificate_margins import MarginStats
from verifier.certificate_runs import Difference
from verifier.loading import Device, Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateOptions:
    """How much is run; the defaults take about a minute on a small model."""

    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    device: Device = "cpu"
    requests: int = 27  # every processor set at every temperature once
    tokens: int = 32  # of each output, at most
    prompts: tuple[str, ...] = ()  # none: the built-in ones
    thorough: bool = False  # every source by every tree size by every batch mix
    generate: bool = True  # hold greedy float32 texts against transformers' ``generate``


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What came of one run of all requests."""

    cell: Cell
    requests: int
    differences: tuple[Difference, ...]
    deviation: float  # largest difference of a log-prob from the plain loop's, before any
    steps: int
    tokens: int
    drafted: int
    accepted: int

    @property
    def acceptance_length(self) -> float:
        """Tokens for each verification, the bonus token included."""
        return self.tokens / max(self.steps, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixResult:
    """Every run in one number format."""

    dtype: Dtype
    fingerprint: str
    plain_tokens: int
    margins: MarginStats  # of the plain loop
    cells: tuple[CellResult, ...]
    leaks: tuple[str, ...]  # what was still held when all had ended
    preemptions: int
    prefix_hit_tokens: int

    @property
    def compared(self) -> int:
        """Texts held against the plain loop's."""
        return sum(cell.requests for cell in self.cells)

    @property
    def differences(self) -> list[Difference]:
        """Where texts first depart from the plain loop's."""
        return [difference for cell in self.cells for difference in cell.differences]

    @property
    def unexplained(self) -> list[Difference]:
        """Those whose decision was not narrow."""
        return [difference for difference in self.differences if not difference.explained]

    @property
    def deviation(self) -> float:
        """Largest difference of a log-prob."""
        return max((cell.deviation for cell in self.cells), default=0.0)

    @property
    def held(self) -> bool:
        """Whether every difference is explained and nothing leaked."""
        return not self.unexplained and not self.leaks

    def acceptance_lengths(self) -> Mapping[str, float]:
        """By source, where it drafted alone with the most nodes; then of all of them together."""
        widest = max((cell.cell.max_nodes for cell in self.cells), default=0)
        found: dict[str, list[CellResult]] = {}
        for result in self.cells:
            if result.cell.max_nodes == widest and result.cell.mode == "fixed":
                names = result.cell.sources
                label = "every source" if names is None else " + ".join(sorted(names))
                found.setdefault(label, []).append(result)
        return {
            name: sum(one.tokens for one in cells) / max(sum(one.steps for one in cells), 1)
            for name, cells in found.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """Greedy texts of the plain loop beside those of transformers' ``generate``."""

    requests: int
    differences: tuple[Difference, ...]
    deviation: float  # largest difference of a log-prob from a rescore by transformers

    @property
    def held(self) -> bool:
        """Whether every difference is explained."""
        return all(difference.explained for difference in self.differences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was run on a model, and what held."""

    model: str
    draft: str | None
    kind: str  # transformers' model type
    prompts: int
    options: CertificateOptions
    matrices: tuple[MatrixResult, ...]
    generate: GenerateResult | None

    @property
    def held(self) -> bool:
        """Whether everything did."""
        generated = self.generate is None or self.generate.held
        return generated and all(one.held for one in self.matrices)
