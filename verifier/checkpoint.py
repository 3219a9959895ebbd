"""The weight files of a model directory: which they are, and what their headers say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from verifier.errors import ModelRefused

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER = 100 * 2**20  # bytes; what the format itself allows
MAX_DIMENSIONS = 8
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weight files that were found whole, and the shape of every tensor in them."""

    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def elements(self) -> int:
        """Numbers in all tensors."""
        return sum(prod(shape) for shape in self.shapes.values())

    def digest(self) -> bytes:
        """SHA-256 over the files, 32 bytes."""
        return digest(self.files)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Find the weights of ``folder`` and read their headers; the weights stay on disk.

    Raises:
        ModelRefused: no such folder, pickled weights only, a shard that is missing, truncated or
            not what the index says, or integers where numbers belong.
    """
    if not folder.is_dir():
        raise ModelRefused(f"{folder} is no directory; expected one with a model in it")
    if (folder / WHOLE).is_file():
        return Checkpoint((folder / WHOLE,), _shapes(folder / WHOLE))
    if (folder / INDEX).is_file():
        return _sharded(folder)
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ModelRefused(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run code when "
            "loaded; expected *.safetensors"
        )
    raise ModelRefused(f"{folder} holds no weights; expected {WHOLE} or {INDEX}")


def digest(files: Sequence[Path]) -> bytes:
    """SHA-256 over names and contents of ``files``, 32 bytes."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        total.update(file.name.encode() + b"\0" + content)
    return total.digest()


def _sharded(folder: Path) -> Checkpoint:
    places = _places(folder / INDEX)
    files = tuple(folder / name for name in sorted(set(places.values())))
    for file in files:
        if not file.is_file():
            raise ModelRefused(f"{INDEX} names {file.name}, which is not in {folder}")
    found = {file.name: _shapes(file) for file in files}
    for tensor, name in places.items():
        if tensor not in found[name]:
            raise ModelRefused(f"{INDEX} says that {name} holds {tensor!r}, but it does not")
    return Checkpoint(
        files, {key: shape for shapes in found.values() for key, shape in shapes.items()}
    )


def _places(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{INDEX} cannot be read: {error!r}") from error
    if not isinstance(places, dict) or not places:
        raise ModelRefused(f"the weight_map of {INDEX} is no mapping of tensors to files")
    for name in places.values():
        plain = isinstance(name, str) and Path(name).name == name
        if not plain or not name.endswith(".safetensors"):
            raise ModelRefused(f"{INDEX} names {name!r}; expected a *.safetensors file beside it")
    return places


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    header, size = _header(file)
    shapes: dict[str, tuple[int, ...]] = {}
    stored = 0
    for name, entry in header.items():
        if name != "__metadata__":
            shapes[name], length = _entry(file, name, entry)
            stored += length
    if stored != size:
        raise ModelRefused(
            f"{file.name} is truncated or corrupted: its header tells of {stored} bytes of "
            f"weights, but {size} are there"
        )
    return shapes


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and the bytes that follow it."""
    total = file.stat().st_size
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(MAX_HEADER, total - 8):
            raise ModelRefused(
                f"{file.name} is no safetensors file: its header claims {size} bytes of {total}"
            )
        try:
            header = json.loads(stream.read(size))
        except (ValueError, RecursionError) as error:
            raise ModelRefused(f"{file.name} is no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ModelRefused(f"{file.name} is no safetensors file: its header is no object")
    return header, total - 8 - size


def _entry(file: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int]:
    """Shape and bytes of one tensor."""
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        start, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelRefused(f"{file.name} describes {name!r} wrongly: {error!r}") from error
    numbers = (*shape, start, end)
    sane = all(type(number) is int and 0 <= number < 2**50 for number in numbers)
    known = isinstance(kind, str) and kind in _BITS
    if not sane or len(shape) > MAX_DIMENSIONS or not known:
        raise ModelRefused(f"{file.name} describes {name!r} wrongly: {str(entry)[:200]}")
    if end - start != prod(shape) * _BITS[kind] // 8:
        raise ModelRefused(
            f"{file.name}: {name!r} of shape {list(shape)} in {kind} takes "
            f"{prod(shape) * _BITS[kind] // 8} bytes, but {end - start} are set aside"
        )
    return shape, end - start
