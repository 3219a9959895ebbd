"""Every error the verifier package raises."""


class VerifierError(Exception):
    """Base of all errors of this package."""


class ModelRefused(VerifierError):
    """The model directory cannot be served; the message says why."""


class RequestRefused(VerifierError, ValueError):
    """A request that cannot be honoured. ``param`` is the field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(RequestRefused):
    """Prompt and wanted output exceed the model's context; the message gives both numbers."""


class QueueFull(VerifierError):
    """Too many requests are waiting."""


class EngineBroken(VerifierError):
    """A model fails at every step; the process should end and be started anew."""
