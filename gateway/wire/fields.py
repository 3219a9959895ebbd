"""Field types and bounds that chat and text completion requests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_CHOICES = 128
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_BIASES = 300
MAX_DRAFTS = 16
MAX_NODES = 256


class Strict(BaseModel):
    """No coercion, no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Only:
    """Marks a field whose effect this server cannot give: null or its defaults, nothing else."""

    allowed: tuple[Any, ...] = ()

    def check(self, value: Any) -> Any:
        """Pass null and the defaults through."""
        if value is None or any(type(value) is type(one) and value == one for one in self.allowed):
            return value
        raise PydanticCustomError("unsupported", "this server does not support it")

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"enum": [None, *self.allowed], "description": "Not supported; default only."}


Unsupported = Annotated[Any, Only()]
NoneOf = Annotated[Any, Only(([],))]
OnlyFalse = Annotated[Any, Only((False,))]

Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias], Field(max_length=MAX_BIASES)
]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenCount = Annotated[int, Field(ge=1, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(max_length=512)]


class TextPart(Strict):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


Text = str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class Prediction(Strict):
    """OpenAI's Predicted Outputs: text the answer will probably repeat."""

    type: Literal["content"]
    content: Text


class StreamOptions(Strict):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SpeculationOptions(Strict):
    """Per-request control of draft trees. It changes speed, never text."""

    mode: Literal["off", "auto", "fixed"] | None = None
    sources: Annotated[list[Name], Field(max_length=16)] | None = None
    max_nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] | None = None


class SpillwayOptions(Strict):
    """Spillway's own request key: `receipt` asks what happened, `speculation` steers drafting."""

    receipt: bool | None = None
    speculation: SpeculationOptions | None = None


class Draft(Strict):
    """A text that the answer may repeat wholly or in part, sent by a gateway to its engine."""

    kind: Literal["rejected_answer", "near_hit", "recent_answer"]
    text: str


class EngineSpillwayOptions(SpillwayOptions):
    """What a gateway may also tell an engine."""

    drafts: Annotated[list[Draft], Field(max_length=MAX_DRAFTS)] | None = None
    predicted_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # of the answer


class CommonRequest(Strict):
    """Fields of both endpoints, with OpenAI's names and bounds, then vLLM's extras."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    max_tokens: TokenCount | None = None
    user: Label | None = None
    cache_salt: Label | None = None  # the gateway strips a client's and sends its own

    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    logits_processors: Unsupported = None
    guided_json: Unsupported = None
    guided_regex: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    structured_outputs: Unsupported = None

    spillway: SpillwayOptions | None = None
