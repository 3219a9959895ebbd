"""Training: the fast forward is transformers' Llama, growth changes nothing, schedules hold."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from demo.conversations import Batch, batches
from demo.export import export
from demo.optimizer import Adam, Muon, orthogonal
from demo.recipe import RECIPES, Recipe
from demo.tokenizer import train_tokenizer
from demo.training import loss_of
from demo.transformer import Transformer

TOKENIZER = train_tokenizer(prompts=500)
TINY = replace(RECIPES["creek"], layers=2, width=64, inner=96, heads=2, kv_heads=1)


def first_batch(tokens: int = 256) -> Batch:
    return next(batches(TOKENIZER, seed=3, tokens=tokens))


def test_the_training_forward_is_the_exported_model(tmp_path: Path) -> None:
    model, batch = Transformer(TINY, len(TOKENIZER)), first_batch()
    export(model, TOKENIZER, tmp_path)
    llama = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        theirs = llama.model(batch.tokens).last_hidden_state
        ours = model.hidden(batch.tokens).float()
    assert torch.cosine_similarity(ours, theirs, -1).min() > 0.999


def test_a_grown_model_computes_what_the_young_one_did() -> None:
    young, batch = Transformer(TINY, len(TOKENIZER)), first_batch()
    grown = Transformer(replace(TINY, layers=6), len(TOKENIZER))
    grown.grow_from(young)
    with torch.no_grad():
        assert torch.equal(grown.hidden(batch.tokens), young.hidden(batch.tokens))


def test_a_few_steps_lower_the_loss() -> None:
    model = Transformer(TINY, len(TOKENIZER))
    muon = Muon(model.matrices(), 0.02)
    adam = Adam([(w, 0.01) for w in (model.embedding, *model.vectors())])
    batch, losses = first_batch(), []
    for _ in range(12):
        loss = loss_of(model, batch)
        loss.backward()
        muon.step(1.0)
        adam.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("shape", [(2, 64, 32), (2, 32, 64), (1, 48, 48)])
def test_orthogonal_steps_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
    assert values.max() < 1.4
    assert values.median() > 0.6


def test_batches_repeat_by_seed_and_mark_answers_only() -> None:
    first, again = first_batch(), first_batch()
    assert torch.equal(first.tokens, again.tokens)
    text = TOKENIZER.decode(first.tokens[0])
    length = first.tokens.shape[1]
    marked = first.targets[first.places < length]
    answers = [part.split("<|end|>")[0] for part in text.split("<|assistant|>")[1:]]
    assert TOKENIZER.decode(marked) == "".join(f"{answer}<|end|>" for answer in answers)


def test_no_training_prompt_lies_in_another_split() -> None:
    from demo.tasks import split_of

    for batch in islice(batches(TOKENIZER, seed=4, tokens=1024), 5):
        for row in TOKENIZER.batch_decode(batch.tokens):
            asked = [part.split("<|end|>")[0] for part in row.split("<|user|>")[1:]]
            assert {split_of(prompt) for prompt in asked} == {"ladder-train"}


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    recipe: Recipe = RECIPES["river"]
    assert recipe.rate_at(0) < 0.1
    assert recipe.rate_at(recipe.steps // 2) == 1.0
    assert recipe.rate_at(recipe.steps - 1) < 0.01
