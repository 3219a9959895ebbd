"""Every error the router package raises."""


class RouterError(Exception):
    """Base of all errors of this package."""


class ModelMismatch(RouterError):
    """A saved router that this version cannot use; the message says what was got and expected."""
