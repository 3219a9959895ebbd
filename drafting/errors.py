"""Every error the drafting package raises."""


class DraftingError(Exception):
    """Base of all errors of this package."""


class InvalidTree(DraftingError, ValueError):
    """A draft tree whose arrays do not describe a tree stored parent-before-child."""
