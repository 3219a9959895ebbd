"""Proves on a user's own model that drafts, batches and memory change no token of any text."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from verifier.certificate_bench import Bench, Progress
from verifier.certificate_generate import compare_with_generate
from verifier.certificate_results import Certificate, CertificateOptions
from verifier.loading import Dtype, load_model

_TARGET: Final = "target"
_DRAFT: Final = "draft"


def certify(
    folder: Path,
    *,
    draft: Path | None = None,
    options: CertificateOptions | None = None,
    progress: Progress = lambda _: None,
) -> Certificate:
    """Run the matrix on the model in ``folder``, drafted for by the one in ``draft`` too.

    Raises:
        ModelRefused: a directory that cannot be served, a draft of another vocabulary, or a
            context too short for the outputs asked for.
    """
    options = options or CertificateOptions()
    matrices, generate = [], None
    for dtype in options.dtypes:
        bench = _bench(folder, draft, dtype, options)
        if dtype == "float32" and options.generate:
            progress("transformers generate")
            generate = compare_with_generate(folder, bench, options.tokens)
        matrices.append(bench.run(progress))
    return Certificate(
        model=str(folder),
        draft=None if draft is None else str(draft),
        kind=str(bench.target.config.model_type),
        prompts=len(bench.prompts),
        options=options,
        matrices=tuple(matrices),
        generate=generate,
    )


def _bench(folder: Path, draft: Path | None, dtype: Dtype, options: CertificateOptions) -> Bench:
    target = load_model(folder, dtype=dtype, device=options.device, name=_TARGET)
    if draft is None:
        return Bench(target, None, dtype, options)
    drafter = load_model(draft, dtype=dtype, device=options.device, name=_DRAFT)
    return Bench(target, drafter, dtype, options)
