"""Text and numbers in, calibrated probabilities out: which tier will do, and whether it did."""

from router_model.classifier import Reading, Router
from router_model.errors import ModelMismatch, RouterError, UnknownTier
from router_model.evidence import AnswerEvidence
from router_model.judge import Judge
from router_model.request_text import Request

__all__ = [
    "AnswerEvidence",
    "Judge",
    "ModelMismatch",
    "Reading",
    "Request",
    "Router",
    "RouterError",
    "UnknownTier",
]
