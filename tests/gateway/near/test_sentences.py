"""The numpy forward is the model's own, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.errors import ConfigError
from gateway.near.sentences import MAX_TOKENS, Sentences, Vector


def reference(folder: Path, text: str) -> Vector:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    if len(ids) > MAX_TOKENS:
        ids = [*ids[: MAX_TOKENS - 1], ids[-1]]
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
    return np.asarray((mean / mean.norm()).numpy())


@pytest.mark.parametrize(
    "text", ["", "a", "the light is on", "no such letters: 你好", "word " * 300]
)
def test_vectors_equal_those_of_transformers(tiny_bert: Path, text: str) -> None:
    vector = Sentences(tiny_bert).embed(text)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, reference(tiny_bert, text), atol=2e-6)


def test_a_directory_without_such_a_model_is_refused(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="near"):
        Sentences(tmp_path)
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"bert"', '"roberta"'))
    with pytest.raises(ConfigError, match="BERT"):
        Sentences(tmp_path)
