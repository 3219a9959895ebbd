"""The promises the repository makes about itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "drafting", "verifier", "router_model", "kernels", "demo")


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *(f"{package}/*.py" for package in PACKAGES)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_the_structure_page_gives_every_file_its_sentence() -> None:
    spec = importlib.util.spec_from_file_location("structure", ROOT / "scripts/structure.py")
    assert spec and spec.loader
    structure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(structure)
    unspoken = [
        str(path)
        for path in _tracked()
        if path.read_text().strip() and not structure.sentence(path)
    ]
    assert unspoken == []
    assert (ROOT / "docs/structure.md").read_text() == structure.page()


def test_no_file_passes_the_ceiling_of_400_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _tracked()}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_the_kernels_package_is_ours() -> None:
    import kernels

    assert Path(kernels.__file__ or "").parent == ROOT / "kernels"
    assert (ROOT / "kernels/__init__.py").read_text().count("import") == 0


@pytest.mark.parametrize("module", ["gateway.app", "gateway.cli", "router_model.classifier"])
def test_the_front_end_runs_with_torch_absent(module: str) -> None:
    blocked = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'sklearn'): sys.modules[name] = None\n"
        f"import {module}\n"
    )
    ran = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


def test_every_configuration_key_is_documented() -> None:
    from gateway import config

    page = (ROOT / "docs/configuration.md").read_text()
    sections = (
        config.ServerConfig, config.RedisConfig, config.EngineConfig, config.ModelConfig,
        config.TierConfig, config.RouterConfig, config.CascadeConfig,
    )  # fmt: skip
    hidden = {"api_key"}
    keys = {key for section in sections for key in section.model_fields} - hidden
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
