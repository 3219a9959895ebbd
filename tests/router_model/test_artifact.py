"""A saved model runs no code and is refused, with a reason, where it does not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_model.artifact import Artifact, load, save
from router_model.errors import ModelMismatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path, "thing", Artifact({"a/x": np.arange(3)}, {"tiers": ["one"]}))
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "thing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_saved_is_loaded(folder: Path) -> None:
    found = load(folder, "thing")
    np.testing.assert_array_equal(found.group("a")["x"], [0, 1, 2])
    assert found.metadata["tiers"] == ["one"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema: got 99, expected 1"),
        ({"kind": "other"}, "kind: got 'other', expected 'thing'"),
        ({"features": {"digest": "0", "numeric": ["chars"]}}, "feature list: got"),
        ({"features": None}, "feature list: got None"),
        ({"arrays_digest": "00"}, "arrays digest: got '00', expected"),
    ],
)
def test_a_mismatch_says_what_was_got_and_expected(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    edit(folder, **change)
    with pytest.raises(ModelMismatch, match=message):
        load(folder, "thing")


def test_features_hashed_in_another_way_are_refused(folder: Path) -> None:
    features = json.loads((folder / "thing.json").read_text())["features"]
    edit(folder, features=features | {"digest": "deadbeef"})
    with pytest.raises(ModelMismatch, match="features digest: got 'deadbeef'"):
        load(folder, "thing")


@pytest.mark.parametrize("name", ["thing.json", "thing.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelMismatch, match=name.replace(".", r"\.")):
        load(folder, "thing")


@pytest.mark.parametrize("text", ["", "[]", "nonsense"])
def test_a_description_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "thing.json").write_text(text)
    with pytest.raises(ModelMismatch):
        load(folder, "thing")


def test_damaged_arrays_are_refused(folder: Path) -> None:
    path = folder / "thing.npz"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ModelMismatch, match="arrays digest"):
        load(folder, "thing")


class Bomb:
    """Leaves a trace when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickle_in_the_arrays_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    boxed = np.array([Bomb(trace)], dtype=object)
    np.savez(tmp_path / "thing.npz", boxed, allow_pickle=True)
    described = tmp_path / "real"
    save(described, "thing", Artifact({"a/x": np.arange(3)}, {}))
    from router_model.artifact import _digest

    metadata = json.loads((described / "thing.json").read_text())
    metadata["arrays_digest"] = _digest(tmp_path / "thing.npz")
    (tmp_path / "thing.json").write_text(json.dumps(metadata))
    with pytest.raises(ModelMismatch, match="without pickle"):
        load(tmp_path, "thing")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # the bomb was live
