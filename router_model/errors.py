"""Every error the router package raises."""


class RouterError(Exception):
    """Base of all errors of this package."""


class ModelMismatch(RouterError):
    """A saved router that this version cannot use; the message says what was got and expected."""


class UnknownTier(RouterError):
    """A tier the saved model was never trained for; the message names both."""


class OutcomeError(RouterError, ValueError):
    """An outcome record that breaks the format; the message names the line and the field."""


class SplitMismatch(RouterError, ValueError):
    """Data of one split given where another is required, or prompts shared between splits."""


class NoSuchPolicy(RouterError):
    """No thresholds reach what was asked for on the evidence given."""
