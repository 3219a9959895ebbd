"""A model drafts for itself with its first layers, and a request may ask for that by name."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig

from drafting.cost import StepCost
from drafting.source import NodeQuery
from drafting.tree import ROOT
from verifier.early_exit import early_exit
from verifier.errors import ModelRefused, RequestRefused
from verifier.loading import load_model
from verifier.request import Speculation

PROMPT = (5, 6, 7, 8, 9, 5, 6)
COST = StepCost([(1, 1.0)])


def likeliest(drafter):
    query = NodeQuery(drafter.model.open(), PROMPT, (11,), (ROOT,), (ROOT, 0))
    (answer,) = drafter.model.candidates([query], width=5)
    return answer


def test_it_ends_after_its_layers_with_the_models_own_norm_and_head(llama):
    last = len(llama.network.layers)
    answers = [likeliest(early_exit(llama, layers, COST)) for layers in range(1, last)]
    full = early_exit(llama, 1, COST)
    full.model._network = llama.network.first_layers(last)
    full.model._cache = type(full.model._cache)(llama.network.cache_shape)
    whole = likeliest(full)
    assert all(not np.array_equal(answer.tokens, whole.tokens) for answer in answers)
    assert len(llama.network.layers) == last  # the target is as it was


@pytest.mark.parametrize("layers", [0, 3, 4])
def test_a_number_of_layers_that_is_no_exit_is_refused(llama, layers):
    with pytest.raises(ModelRefused, match="expected 1 to 2"):
        early_exit(llama, layers, COST)


def test_a_model_of_one_layer_has_no_exit(make_model):
    single = load_model(make_model(LlamaConfig, 1, num_hidden_layers=1), name="single")
    with pytest.raises(ModelRefused, match="expected 1 to 0"):
        early_exit(single, 1, COST)


@pytest.mark.parametrize("source", ["early_exit", "lookahead"])
def test_a_source_asked_for_by_name_drafts_and_changes_nothing(llama, drive, source):
    engine = drive.engine(llama, sources=(source,), exit_layers={"llama": 2})
    wish = Speculation(mode="fixed", sources=frozenset({source}), max_nodes=8)
    [drafted] = drive.run(engine, drive.request(PROMPT, name="a", tokens=24, speculation=wish))
    [plain] = drive.run(engine, drive.request(PROMPT, name="b", tokens=24, speculate=False))
    assert drive.tokens(drafted) == drive.tokens(plain)
    assert drafted[-1].receipt.by_source.keys() == {source}


@pytest.mark.parametrize("source", ["early_exit", "draft_model", "lookahead", "oracle"])
def test_a_source_the_model_has_not_is_refused(llama, drive, source):
    engine = drive.engine(llama)
    wish = Speculation(sources=frozenset({source}))
    with pytest.raises(RequestRefused, match=source) as refusal:
        engine.submit(drive.request(PROMPT, speculation=wish))
    assert refusal.value.param == "spillway.speculation.sources"


def test_without_speculation_wished_sources_are_refused(llama, drive):
    engine = drive.engine(llama, speculation=False)
    wish = Speculation(sources=frozenset({"prompt_lookup"}))
    with pytest.raises(RequestRefused, match="without speculation"):
        engine.submit(drive.request(PROMPT, speculation=wish))
