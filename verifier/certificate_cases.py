"""What a certificate runs: prompts of many kinds, every processor at every temperature, batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Final, Literal, NamedTuple

from verifier.errors import RequestRefused
from verifier.loading import LoadedModel
from verifier.request import GenerationRequest, SamplingParams, StopRules

TEMPERATURES: Final = (0.0, 0.7, 1.2)
PROCESSORS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "top-k": {"top_k": 20},
    "top-p": {"top_p": 0.9},
    "min-p": {"min_p": 0.05},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {5: 2.0, 6: 2.0, 7: -3.0}},
    "minimum": {},
    "stops": {},
    "all": {
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {8: 1.0},
    },
}
"""Sampling parameters by name; "minimum" and "stops" differ in their ``StopRules``."""

_STOP_STRINGS: Final = ("e", "th", "\n\n", " a")

Mix = Literal["alone", "together", "staggered", "tight"]
MIXES: Final[tuple[Mix, ...]] = ("alone", "together", "staggered", "tight")
"""How requests share the engine: one by one; all at once; joining one by one; over few pages."""

_CHAT: Final = (
    "Sort the words: pear, apple, fig, plum, kiwi. Then say which one is the longest.",
    "Explain in two sentences why the sky is blue.",
)
_TEXTS: Final = (
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + ",
    "one two three four five six seven eight. one two three four five six seven eight. one two",
    "Größe, naïve café, 東京タワー and emoji 🦊🌊 are a test. Größe, naïve café, 東京タワー and",
    '{"name": "pear", "kind": "fruit"}\n{"name": "leek", "kind": "vegetable"}\n{"name": "',
    "The",
    "It was late in the evening when the train came to a halt between two stations, and nobody on "
    "it could say why. The lamps went out. Somebody laughed. A child asked whether this was the "
    "sea. It was late in the evening when",
)


class Variant(NamedTuple):
    """One request of the matrix, before anything is drafted for it."""

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    stops: StopRules

    def request(self, model: str, index: int, **more: Any) -> GenerationRequest:
        """It as a request to ``model``, with the log-prob of every token; ``index`` names it."""
        fields: dict[str, Any] = {"top_logprobs": 0, **more}
        return GenerationRequest(
            request_id=str(index),
            model=model,
            prompt=self.prompt,
            sampling=self.sampling,
            stops=self.stops,
            **fields,
        )


class Cell(NamedTuple):
    """One run of all variants: who drafts how much, and how they share the engine."""

    sources: frozenset[str] | None  # None: every source there is
    max_nodes: int
    mix: Mix
    mode: Literal["auto", "fixed"] = "fixed"

    @property
    def name(self) -> str:
        """As it stands in a certificate."""
        who = "every source" if self.sources is None else " + ".join(sorted(self.sources))
        return f"{who}, {self.max_nodes} nodes, {self.mix}" + (
            ", planned" if self.mode == "auto" else ""
        )


def prompts_of(model: LoadedModel, texts: Iterable[str], *, longest: int) -> list[tuple[int, ...]]:
    """Tokens of ``texts``; without any, of the built-in ones.

    These are chat where the model has a template, code, repetition, other scripts, short and long
    text. Each is cut to its last ``longest`` tokens.
    """
    given = [model.encode(text) for text in texts]
    tokens = given or [*_chats(model), *(model.encode(text) for text in _TEXTS)]
    return [prompt[-longest:] for prompt in tokens if prompt] or [(0,)]


def variants(
    prompts: Sequence[tuple[int, ...]], *, requests: int, tokens: int, vocabulary: int
) -> list[Variant]:
    """``requests`` of them, every processor at every temperature first, over ``prompts`` in turn.

    ``tokens``: how many each writes at most.
    """
    kinds = list(product(PROCESSORS, TEMPERATURES))
    made = []
    for index in range(requests):
        processors, temperature = kinds[index % len(kinds)]
        # The second round of kinds meets other prompts than the first one.
        place = (index + index // len(kinds)) % len(prompts)
        made.append(
            Variant(
                f"prompt {place}, {processors}, temperature {temperature:g}",
                prompts[place],
                _sampling(processors, temperature, index, vocabulary),
                _stops(processors, tokens, prompts[place]),
            )
        )
    return made


def matrix(names: Sequence[str], shapes: Sequence[int], mixes: Sequence[Mix]) -> list[Cell]:
    """Every source alone and all together, at every number of nodes, in every mix; then planned."""
    sets = [None, *(frozenset((name,)) for name in names)]
    cells = [Cell(*cell) for cell in product(sets, shapes, mixes)]
    return cells + [Cell(None, max(shapes), mix, "auto") for mix in mixes]


def sample_of(names: Sequence[str], shapes: Sequence[int], mixes: Sequence[Mix]) -> list[Cell]:
    """Every source, number of nodes and mix at least once: far fewer cells than ``matrix``."""
    widest = max(shapes)
    cells = [Cell(None, nodes, mixes[0]) for nodes in shapes]
    cells += [Cell(None, widest, mix) for mix in mixes[1:]]
    cells += [
        Cell(frozenset((name,)), widest, mixes[index % len(mixes)])
        for index, name in enumerate(names)
    ]
    return [*cells, Cell(None, widest, mixes[0], "auto")]


def _sampling(processors: str, temperature: float, index: int, vocabulary: int) -> SamplingParams:
    fields = dict(PROCESSORS[processors])
    if "logit_bias" in fields:
        bias = fields["logit_bias"].items()
        fields["logit_bias"] = {token: value for token, value in bias if token < vocabulary}
    return SamplingParams(
        temperature=temperature, seed=0x9E3779B97F4A7C15 * (index + 1) % 2**64, **fields
    )


def _stops(processors: str, tokens: int, prompt: tuple[int, ...]) -> StopRules:
    if processors == "minimum":
        banned = frozenset(prompt[-8:])  # likely to come again
        return StopRules(max_tokens=tokens, min_tokens=tokens // 2, stop_token_ids=banned)
    if processors == "stops":
        return StopRules(max_tokens=tokens, stop=_STOP_STRINGS)
    return StopRules(max_tokens=tokens, ignore_eos=True)


def _chats(model: LoadedModel) -> list[tuple[int, ...]]:
    found = []
    for text in _CHAT:
        try:
            found.append(model.render_chat([{"role": "user", "content": text}]))
        except RequestRefused:
            found.append(model.encode(text))
    return found
