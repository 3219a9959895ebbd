"""Refuses what cannot be honoured, and turns the rest into choices ready to run."""

from __future__ import annotations

import time

from drafting.errors import DraftingError, UnknownSource
from drafting.mix import DraftControl, Drafting, RequestDrafts
from drafting.source import DraftRequest
from verifier.acceptance import ChoiceSampler
from verifier.choice import Choice, Tally
from verifier.decoder import Decoder
from verifier.errors import ContextOverflow, RequestRefused
from verifier.loading import LoadedModel
from verifier.margin import NARROW
from verifier.noise import TargetNoise
from verifier.output import Output
from verifier.pages import root_hash
from verifier.processors import Processors
from verifier.request import GenerationRequest, Speculation

MAX_STOPS = 64
MAX_STOP_LENGTH = 1024  # characters


class Intake:
    """The door of one model."""

    def __init__(self, model: LoadedModel, decoder: Decoder) -> None:
        self._model = model
        self._decoder = decoder

    def check(self, request: GenerationRequest) -> None:
        """Raise ``RequestRefused`` or ``ContextOverflow`` if the request cannot be honoured."""
        self._check_prompt(request)
        self._check_stops(request)
        self._check_length(request)
        for reference in request.references:
            self._check_tokens(reference.tokens, "prediction")
        if self._decoder.drafting is None and request.speculation.mode == "fixed":
            raise RequestRefused(
                f"model {self._model.name!r} runs without speculation; expected mode off or auto",
                param="spillway.speculation.mode",
            )
        if self._decoder.drafting is None and request.speculation.sources:
            raise RequestRefused(
                f"model {self._model.name!r} runs without speculation; got sources "
                f"{sorted(request.speculation.sources)}, expected none",
                param="spillway.speculation.sources",
            )
        for param in ("top_logprobs", "prompt_logprobs"):
            rivals = getattr(request, param)
            if rivals is not None and not 0 <= rivals <= 20:
                raise RequestRefused(f"got {param} {rivals}; expected 0 to 20", param=param)
        if request.predicted_tokens is not None and request.predicted_tokens < 0:
            raise RequestRefused(
                f"got predicted_tokens {request.predicted_tokens}; expected at least 0",
                param="spillway.predicted_tokens",
            )
        if self._decoder.drafting is not None:
            _check_control(self._decoder.drafting, request.speculation)

    def open(self, request: GenerationRequest, arrival: int) -> Choice:
        """A choice with nothing reserved yet."""
        model, sampling = self._model, request.sampling
        ends = request.stops.stop_token_ids
        ends |= frozenset() if request.stops.ignore_eos else model.eos_token_ids
        processors = Processors(
            sampling,
            prompt=request.prompt,
            min_tokens=request.stops.min_tokens,
            stop_ids=ends,
            vocab_size=model.vocab_size,
        )
        noise = None
        if sampling.temperature > 0:
            noise = TargetNoise(sampling.seed, request.choice, model.weights_digest)
        return Choice(
            request=request,
            arrival=arrival,
            root=root_hash(model.fingerprint, request.cache_salt),
            tokens=list(request.prompt),
            sampler=ChoiceSampler(
                processors,
                noise,
                prompt_tokens=len(request.prompt),
                narrow=NARROW[str(model.dtype).removeprefix("torch.")],
            ),
            output=Output(request.stops, eos=model.eos_token_ids, decode=model.decode),
            drafts=self._drafts(request, noise, ends),
            tally=Tally(submitted=time.perf_counter()),
            rotary_switch=model.rotary_switch,
        )

    def _drafts(
        self, request: GenerationRequest, noise: TargetNoise | None, ends: frozenset[int]
    ) -> RequestDrafts | None:
        drafting = self._decoder.drafting
        predicted = any(one.kind == "prediction" for one in request.references)
        if drafting is None or (request.speculation.mode == "off" and not predicted):
            return None  # a prediction is counted on the text, whether or not it is drafted
        wanted = DraftRequest(
            prompt=request.prompt,
            references=request.references,
            temperature=request.sampling.temperature,
            noise=noise,
            stop_ids=ends,
            owner=request.cache_salt,
        )
        return drafting.open(wanted, _control(request.speculation))

    def _check_prompt(self, request: GenerationRequest) -> None:
        if not request.prompt:
            raise RequestRefused("got an empty prompt; expected at least one token", param="prompt")
        self._check_tokens(request.prompt, "prompt")

    def _check_tokens(self, tokens: tuple[int, ...], param: str) -> None:
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._model.vocab_size):
            raise RequestRefused(
                f"got token ids from {min(tokens)} to {max(tokens)}; expected 0 to "
                f"{self._model.vocab_size - 1}",
                param=param,
            )

    def _check_stops(self, request: GenerationRequest) -> None:
        stops = request.stops
        least = 0 if request.prompt_logprobs is not None else 1
        if stops.max_tokens < least:
            raise RequestRefused(
                f"got max_tokens {stops.max_tokens}; expected at least {least}", param="max_tokens"
            )
        if not 0 <= stops.min_tokens <= stops.max_tokens:
            raise RequestRefused(
                f"got min_tokens {stops.min_tokens}; expected 0 to max_tokens {stops.max_tokens}",
                param="min_tokens",
            )
        if len(stops.stop) > MAX_STOPS or any(
            not 0 < len(stop) <= MAX_STOP_LENGTH for stop in stops.stop
        ):
            raise RequestRefused(
                f"got {len(stops.stop)} stop strings; expected at most {MAX_STOPS} of 1 to "
                f"{MAX_STOP_LENGTH} characters",
                param="stop",
            )

    def _check_length(self, request: GenerationRequest) -> None:
        prompt, wanted = len(request.prompt), request.stops.max_tokens
        cache = self._decoder.cache
        limit = min(self._model.max_model_len, cache.pool.total * cache.page_size)
        if prompt + wanted > limit:
            raise ContextOverflow(
                f"got {prompt} prompt tokens and max_tokens {wanted}, {prompt + wanted} together; "
                f"expected at most {limit}, the context of {self._model.name!r}",
                param="max_tokens" if prompt < limit else "messages",
            )


def _control(speculation: Speculation) -> DraftControl:
    return DraftControl(
        mode=speculation.mode, sources=speculation.sources, max_nodes=speculation.max_nodes
    )


def _check_control(drafting: Drafting, speculation: Speculation) -> None:
    try:
        drafting.check(_control(speculation))
    except DraftingError as error:
        field = "sources" if isinstance(error, UnknownSource) else "max_nodes"
        raise RequestRefused(str(error), param=f"spillway.speculation.{field}") from error
