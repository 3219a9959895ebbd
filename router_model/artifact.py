"""Reads and writes trained models: arrays in NPZ without pickle, beside JSON about them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_model.errors import ModelMismatch
from router_model.features import NUMERIC_NAMES, features_digest

SCHEMA_VERSION = 1

Arrays = dict[str, NDArray[np.generic]]


class Artifact(NamedTuple):
    """A saved model: ``arrays`` by "group/name", ``metadata`` as in its JSON file."""

    arrays: Arrays
    metadata: dict[str, Any]

    def group(self, name: str) -> Arrays:
        """The arrays whose names begin with ``name/``, without it."""
        start = f"{name}/"
        return {key[len(start) :]: a for key, a in self.arrays.items() if key.startswith(start)}


def grouped(groups: Mapping[str, Arrays]) -> Arrays:
    """Arrays of several groups under "group/name"."""
    return {f"{group}/{name}": a for group, arrays in groups.items() for name, a in arrays.items()}


def save(folder: Path, kind: str, artifact: Artifact) -> None:
    """Write ``kind``.npz, then ``kind``.json, which names the digest of the arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.npz"
    np.savez_compressed(path, allow_pickle=False, **artifact.arrays)
    described = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "features": {"digest": features_digest(), "numeric": list(NUMERIC_NAMES)},
        "arrays_digest": _digest(path),
        **artifact.metadata,
    }
    (folder / f"{kind}.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")


def load(folder: Path, kind: str) -> Artifact:
    """Read what ``save`` wrote.

    Raises:
        ModelMismatch: files missing or damaged, another schema or kind, other features.
    """
    metadata = _metadata(folder / f"{kind}.json")
    _expect("schema", metadata.get("schema"), SCHEMA_VERSION)
    _expect("kind", metadata.get("kind"), kind)
    features = metadata.get("features")
    known = features if isinstance(features, dict) else {}
    _expect("feature list", known.get("numeric"), list(NUMERIC_NAMES))
    _expect("features digest", known.get("digest"), features_digest())
    path = folder / f"{kind}.npz"
    if not path.is_file():
        raise ModelMismatch(f"{path}: got no file, expected the arrays of {kind}.json")
    _expect("arrays digest", metadata.get("arrays_digest"), _digest(path))
    return Artifact(_arrays(path), metadata)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelMismatch(f"{path}: expected a readable JSON file, got {error}") from error
    if not isinstance(found, dict):
        raise ModelMismatch(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelMismatch(f"{path}: expected an NPZ without pickle, got {error}") from error


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise ModelMismatch(f"saved model's {what}: got {got!r}, expected {expected!r}")


def _digest(path: Path) -> str:
    return blake2b(path.read_bytes(), digest_size=16).hexdigest()
