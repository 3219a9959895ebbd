"""What one tier is sent: the client's body, plus what helps the judge and the bigger model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.cascade.answer import Answer
from gateway.errors import ApiError
from gateway.generation import Delta, Endpoint, Job, Json, Tier

_MOST_RIVALS: Mapping[Endpoint, int] = {"chat": 20, "completions": 5}
_MOST_DRAFTS = 16
_LONGEST_PREDICTION = 1e9  # tokens
HandedUp = Literal["prediction", "drafts", "near_hits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request to one tier. ``rivals`` is what the client asked for: None for no log-probs."""

    body: Mapping[str, Json]
    rivals: int | None
    handed_up: tuple[HandedUp, ...] = ()
    added: bool = False  # whether the body says anything the client did not

    def shown(self, delta: Delta) -> Delta:
        """``delta`` with only the log-probs the client asked for."""
        if delta.logprobs is None:
            return delta
        if self.rivals is None:
            return replace(delta, logprobs=None)
        entries = tuple(_fewer_rivals(entry, self.rivals) for entry in delta.logprobs)
        return replace(delta, logprobs=entries)


def able(job: Job, tiers: Sequence[Tier]) -> tuple[Tier, ...]:
    """Those of ``tiers`` that can give everything asked for: nothing is left out silently.

    Raises:
        ApiError: 400, none can.
    """
    found = tuple(tiers)
    if _rivals_wanted(job) is not None:
        why = f"The model {job.model!r} gives no log-probs here; leave 'logprobs' out."
        found = _with("logprobs", found, why, param="logprobs")
    steered = _steered(job)
    if steered is not None:
        why = f"The model {job.model!r} cannot be told here how to draft; leave '{steered}' out."
        found = _with("drafts", found, why, param=steered)
    return found


def _with(capability: str, tiers: tuple[Tier, ...], why: str, *, param: str) -> tuple[Tier, ...]:
    found = tuple(tier for tier in tiers if capability in tier.capabilities)
    if not found:
        raise ApiError(400, why, param=param, code="unsupported_parameter")
    return found


def _steered(job: Job) -> str | None:
    """The first option of speculation that asks for more than every server does by itself."""
    options = {**(job.speculation or {})}
    if options.get("mode") == "auto":
        del options["mode"]
    return next((f"spillway.speculation.{name}" for name in options), None)


def plain_question(job: Job) -> Question:
    """Just what the client asked."""
    return Question(body=job.body, rivals=_rivals_wanted(job))


def question(
    job: Job,
    tier: Tier,
    *,
    judge_rivals: int | None = None,
    rejected: Sequence[Answer] = (),
    expected_tokens: float | None = None,
    near: Sequence[str] = (),
) -> Question:
    """What to send ``tier``: with log-probs for the judge, with the answers rejected so far, and
    with answers to ``near`` requests.

    ``expected_tokens`` is the router's guess of the answer's length, for the engine's queue.
    """
    body: dict[str, Json] = dict(job.body)
    if judge_rivals is not None and "logprobs" in tier.capabilities:
        _ask_for_logprobs(body, job.endpoint, judge_rivals)
    handed_up = _hand_up(body, tier, rejected, near)
    added = body != job.body
    if expected_tokens is not None and "drafts" in tier.capabilities:
        predicted = {"predicted_tokens": round(min(expected_tokens, _LONGEST_PREDICTION))}
        body["spillway"] = {**body.get("spillway", {}), **predicted}
    return Question(body=body, rivals=_rivals_wanted(job), handed_up=handed_up, added=added)


def _rivals_wanted(job: Job) -> int | None:
    logprobs = job.body.get("logprobs")
    if job.endpoint == "completions":
        return None if logprobs is None else int(logprobs)
    return int(job.body.get("top_logprobs") or 0) if logprobs else None


def _ask_for_logprobs(body: dict[str, Json], endpoint: Endpoint, rivals: int) -> None:
    most = _MOST_RIVALS[endpoint]
    if endpoint == "completions":
        body["logprobs"] = min(max(body.get("logprobs") or 0, rivals), most)
        return
    asked = (body.get("top_logprobs") or 0) if body.get("logprobs") else 0
    body["logprobs"] = True
    body["top_logprobs"] = min(max(asked, rivals), most)


def _hand_up(
    body: dict[str, Json], tier: Tier, rejected: Sequence[Answer], near: Sequence[str]
) -> tuple[HandedUp, ...]:
    """The newest as a prediction where that is free, the rest as drafts for our own engine.

    Predicted Outputs knows one text for one choice, so several choices go as drafts only. A near
    hit is a prediction only where drafts are not taken: it is no answer to this request.
    """
    texts = _texts(rejected)
    handed: list[HandedUp] = []
    one_choice = (body.get("n") or 1) == 1
    takes = one_choice and not body.get("prediction") and "prediction" in tier.capabilities
    if texts and takes:
        body["prediction"] = {"type": "content", "content": texts.pop(0)}
        handed.append("prediction")
    near = [text for text in near if text not in texts]
    if "drafts" in tier.capabilities:
        drafts = [{"kind": "rejected_answer", "text": text} for text in texts]
        drafts += [{"kind": "near_hit", "text": text} for text in near]
        if drafts:
            body["spillway"] = {"drafts": drafts[:_MOST_DRAFTS]}
        handed += ["drafts"] if texts else []
        handed += ["near_hits"] if near else []
    elif near and takes and not body.get("prediction"):
        body["prediction"] = {"type": "content", "content": near[0]}
        handed.append("near_hits")
    return tuple(handed)


def _texts(rejected: Sequence[Answer]) -> list[str]:
    """Distinct texts, newest answer first."""
    texts = [choice.text for answer in reversed(rejected) for choice in answer.choices]
    return list(dict.fromkeys(text for text in texts if text))


def _fewer_rivals(entry: Mapping[str, Json], rivals: int) -> Mapping[str, Json]:
    top = entry.get("top_logprobs")
    if not isinstance(top, list) or len(top) <= rivals:
        return entry
    return {**entry, "top_logprobs": top[:rivals]}
