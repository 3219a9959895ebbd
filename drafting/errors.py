"""Every error the drafting package raises."""


class DraftingError(Exception):
    """Base of all errors of this package."""


class InvalidTree(DraftingError, ValueError):
    """A draft tree whose arrays do not describe a tree stored parent-before-child."""


class UnknownSource(DraftingError, ValueError):
    """A request names a draft source that is not configured for its model."""


class InvalidControl(DraftingError, ValueError):
    """A request's wishes about speculation contradict each other or lie out of range."""
