"""A certificate in words for people, and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from verifier.certificate_margins import MarginStats
from verifier.certificate_results import Certificate, GenerateResult, MatrixResult
from verifier.certificate_runs import Difference

_SHOWN: Final = 20  # differences written out
_BAR: Final = 40  # characters of the longest class of the histogram


def as_json(certificate: Certificate) -> dict[str, Any]:
    """Numbers, strings, lists and dictionaries only; what is infinite is null."""
    options = certificate.options
    return {
        "held": certificate.held,
        "model": certificate.model,
        "draft": certificate.draft,
        "model_type": certificate.kind,
        "device": options.device,
        "requests": options.requests,
        "max_tokens": options.tokens,
        "prompts": certificate.prompts,
        "generate": None if certificate.generate is None else _generated(certificate.generate),
        "runs": [_matrix(one) for one in certificate.matrices],
    }


def as_text(certificate: Certificate) -> str:
    """A page that ends with what held."""
    return "\n".join(_lines(certificate)) + "\n"


def _generated(result: GenerateResult) -> dict[str, Any]:
    return {
        "held": result.held,
        "requests": result.requests,
        "differences": [_difference(one) for one in result.differences],
        "largest_logprob_deviation": result.deviation,
    }


def _matrix(result: MatrixResult) -> dict[str, Any]:
    return {
        "held": result.held,
        "dtype": result.dtype,
        "fingerprint": result.fingerprint,
        "texts_compared": result.compared,
        "texts_equal": result.compared - len(result.differences),
        "explained_differences": len(result.differences) - len(result.unexplained),
        "unexplained_differences": len(result.unexplained),
        "differences": [_difference(one) for one in result.differences],
        "largest_logprob_deviation": result.deviation,
        "acceptance_length": dict(result.acceptance_lengths()),
        "margins": _margins(result.margins),
        "preemptions": result.preemptions,
        "prefix_hit_tokens": result.prefix_hit_tokens,
        "leaks": list(result.leaks),
        "cells": [
            {
                "name": one.cell.name,
                "requests": one.requests,
                "differences": len(one.differences),
                "acceptance_length": one.acceptance_length,
                "drafted": one.drafted,
                "accepted": one.accepted,
            }
            for one in result.cells
        ],
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {**one._asdict(), "margin": _finite(one.margin)}


def _margins(stats: MarginStats) -> dict[str, Any]:
    return {
        "decisions": stats.decisions,
        "bound": stats.bound,
        "narrow": stats.narrow,
        "percentiles": {str(percent): _finite(value) for percent, value in stats.percentiles},
        "histogram": [{"from": low, "decisions": count} for low, count in stats.histogram],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(certificate: Certificate) -> Iterator[str]:
    options = certificate.options
    yield f"Certificate of {certificate.model} ({certificate.kind}, {options.device})"
    if certificate.draft is not None:
        yield f"drafted for by {certificate.draft}"
    yield (
        f"{options.requests} requests over {certificate.prompts} prompts, up to {options.tokens} "
        "tokens each, run by the plain loop and then by every combination below"
    )
    if certificate.generate is not None:
        yield from ("", *_generate_lines(certificate.generate))
    for result in certificate.matrices:
        yield from ("", *_matrix_lines(result))
    yield ""
    yield "HELD" if certificate.held else "DID NOT HOLD"


def _generate_lines(result: GenerateResult) -> Iterator[str]:
    equal = result.requests - len(result.differences)
    yield f"[{_held(result.held)}] greedy float32 texts equal to transformers generate: "
    yield f"    {equal} of {result.requests}; largest log-prob deviation {result.deviation:.1e}"
    yield from _difference_lines(result.differences)


def _matrix_lines(result: MatrixResult) -> Iterator[str]:
    differ, wrong = len(result.differences), len(result.unexplained)
    share = differ / max(result.compared, 1)
    yield f"[{_held(result.held)}] {result.dtype}: {len(result.cells)} runs"
    yield (
        f"    texts equal to the plain loop's: {result.compared - differ} of {result.compared}; "
        f"{differ} differ ({share:.1%}), {wrong} of them unexplained"
    )
    yield (
        f"    largest log-prob deviation {result.deviation:.1e}; {result.preemptions} preemptions, "
        f"{result.prefix_hit_tokens} tokens from shared prefixes"
    )
    yield from (f"    LEAK: {leak}" for leak in result.leaks)
    yield from _difference_lines(result.differences)
    yield "    acceptance length (tokens for each verification)"
    yield from (
        f"        {name:<24}{length:6.2f}" for name, length in result.acceptance_lengths().items()
    )
    yield from _margin_lines(result.margins)


def _difference_lines(differences: Sequence[Difference]) -> Iterator[str]:
    """Unexplained ones first, then those of the widest margin."""
    worst = sorted(differences, key=lambda one: (one.explained, -one.margin))
    for one in worst[:_SHOWN]:
        why = "narrow" if one.explained else "UNEXPLAINED"
        yield (f"    {why}: token {one.place}, margin {one.margin:.2e}: {one.variant} ({one.case})")
    if len(worst) > _SHOWN:
        yield f"    and {len(worst) - _SHOWN} more"


def _margin_lines(stats: MarginStats) -> Iterator[str]:
    percentiles = ", ".join(f"{percent} % {value:.2g}" for percent, value in stats.percentiles)
    yield (
        f"    margins of {stats.decisions} decisions: {stats.narrow} below {stats.bound:g}; "
        f"{percentiles}"
    )
    most = max((count for _, count in stats.histogram), default=0) or 1
    for low, count in stats.histogram:
        yield f"        from {low:<7g}{count:7d} {'#' * round(_BAR * count / most)}"


def _held(held: bool) -> str:
    return "held" if held else "DID NOT HOLD"
