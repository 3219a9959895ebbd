"""Tiny random models and a tokenizer trained on the spot, as real directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from verifier.engine import Engine, EngineConfig
from verifier.loading import LoadedModel, load_model
from verifier.request import GenerationRequest, SamplingParams, Speculation, StepOutput, StopRules

CORPUS = [
    "The quick brown fox jumps over the lazy dog; the dog sleeps on, and the fox runs home.",
    "Sort the words: pear, apple, fig. The answer is apple, fig, pear.",
    "Größe, naïve café, 東京 and emoji 🦊🌊 test what a code point is.",
    "0 1 2 3 4 5 6 7 8 9 ten eleven twelve",
]
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
VOCABULARY = 320
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
SPECIAL = ["<|pad|>", "<|start|>", "<|end|>"]
torch.set_num_threads(1)


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def make_network(config_class: type[Any], seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = config_class(**{**TINY, "eos_token_id": 2, "bos_token_id": None, **changes})
    network = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.25)
        else:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    return network


MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Write a tiny random model of a config class and return its directory."""
    made: dict[str, Path] = {}

    def make(config_class: type[Any], seed: int = 0, **changes: Any) -> Path:
        key = repr((config_class.__name__, seed, sorted(changes.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("model")
            make_network(config_class, seed, **changes).save_pretrained(made[key])
            make_tokenizer().save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def llama_path(make_model: MakeModel) -> Path:
    from transformers import LlamaConfig

    return make_model(LlamaConfig)


@pytest.fixture(scope="session")
def llama(llama_path: Path) -> LoadedModel:
    return load_model(llama_path, name="llama")


@pytest.fixture(scope="session")
def drafter(make_model: MakeModel) -> LoadedModel:
    """A smaller model of the same vocabulary."""
    from transformers import LlamaConfig

    path = make_model(LlamaConfig, 1, num_hidden_layers=1)
    return load_model(path, name="drafter")


class Driver:
    """Builds requests for the model named "llama" and runs engines dry."""

    greedy = SamplingParams(temperature=0.0)

    @staticmethod
    def request(
        prompt: tuple[int, ...],
        *,
        name: str = "r",
        tokens: int = 24,
        speculate: bool = True,
        **more: Any,
    ) -> GenerationRequest:
        """Greedy, ``tokens`` tokens, whatever they are, unless ``more`` says otherwise."""
        fields: dict[str, Any] = {
            "model": "llama",
            "sampling": Driver.greedy,
            "stops": StopRules(max_tokens=tokens, ignore_eos=True),
            "speculation": Speculation(mode="auto" if speculate else "off"),
        }
        return GenerationRequest(request_id=name, prompt=prompt, **{**fields, **more})

    @staticmethod
    def drain(engine: Engine) -> dict[tuple[str, int], list[StepOutput]]:
        """Outputs of every choice until the engine is idle."""
        found: dict[tuple[str, int], list[StepOutput]] = {}
        while engine.has_work():
            for output in engine.step():
                found.setdefault((output.request_id, output.choice), []).append(output)
        return found

    @staticmethod
    def run(engine: Engine, *requests: GenerationRequest) -> list[list[StepOutput]]:
        """Outputs of ``requests``, decoded together, in their order."""
        for request in requests:
            engine.submit(request)
        found = Driver.drain(engine)
        return [found[request.request_id, request.choice] for request in requests]

    @staticmethod
    def tokens(outputs: list[StepOutput]) -> list[int]:
        return [token for output in outputs for token in output.tokens]

    @staticmethod
    def text(outputs: list[StepOutput]) -> str:
        return "".join(output.text for output in outputs)

    @staticmethod
    def engine(*models: LoadedModel, **config: Any) -> Engine:
        return Engine({model.name: model for model in models}, EngineConfig(**config))


@pytest.fixture(scope="session")
def drive() -> type[Driver]:
    return Driver
