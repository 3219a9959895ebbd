"""The process behind `spillway verify`: loads the models, runs the proofs, prints a certificate."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

import torch
from transformers.utils.logging import disable_progress_bar

from gateway.commands.verify import add_options
from gateway.errors import ConfigError
from verifier.certificate import certify
from verifier.certificate_bench import Progress
from verifier.certificate_results import CertificateOptions
from verifier.certificate_text import as_json, as_text
from verifier.errors import VerifierError
from verifier.loading import Dtype

_HELD: Final = 0
_DID_NOT_HOLD: Final = 1
_BAD_CONFIG: Final = 78
_MOST_PROMPTS: Final = 1000
_MOST_BYTES: Final = 4 * 2**20


def main(argv: list[str] | None = None) -> int:
    """Certify one model; the exit status says whether it held."""
    options = _parse(argv)
    disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        certificate = certify(
            options.model,
            draft=options.draft,
            options=_extent(options),
            progress=_silent if options.quiet else _progress(),
        )
    except (ConfigError, VerifierError) as error:
        print(f"spillway verify: {error}", file=sys.stderr)
        return _BAD_CONFIG
    if options.json:
        print(json.dumps(as_json(certificate), indent=2, allow_nan=False))
    else:
        print(as_text(certificate), end="")
    return _HELD if certificate.held else _DID_NOT_HOLD


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="spillway verify", description=__doc__)
    add_options(parser)
    return parser.parse_args(argv)


def _extent(options: argparse.Namespace) -> CertificateOptions:
    both: tuple[Dtype, ...] = ("float32", "bfloat16")
    return CertificateOptions(
        dtypes=both if options.dtype == "both" else (options.dtype,),
        device=options.device,
        requests=options.requests,
        tokens=options.tokens,
        prompts=() if options.prompts is None else _read_prompts(options.prompts),
        thorough=options.thorough,
        generate=not options.no_generate,
    )


def _read_prompts(file: Path) -> tuple[str, ...]:
    """One prompt a line; empty lines are skipped."""
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES + 1)
        lines = text.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {file}: {error}") from error
    prompts = tuple(line for line in lines if line.strip())
    if len(text) > _MOST_BYTES or not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise ConfigError(
            f"--prompts {file}: got {len(prompts)} prompts; expected 1 to {_MOST_PROMPTS}, one a "
            f"line, in at most {_MOST_BYTES} bytes"
        )
    return prompts


def _progress() -> Progress:
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {what}", file=sys.stderr, flush=True)

    return tell


def _silent(what: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
