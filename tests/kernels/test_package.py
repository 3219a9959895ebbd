"""The name of this package is also that of a Hugging Face project; ours must win."""

from __future__ import annotations

from pathlib import Path

import kernels


def test_kernels_is_our_own_package_and_imports_nothing() -> None:
    origin = Path(kernels.__file__)
    assert (origin.parent / "tree_attention.py").is_file()
    assert "import" not in origin.read_text()


def test_transformers_still_offers_llama_beside_it() -> None:
    from transformers import LlamaForCausalLM

    assert LlamaForCausalLM.__module__.startswith("transformers")
