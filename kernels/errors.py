"""Every error the kernels package raises."""


class KernelError(ValueError):
    """Base of all errors of this package: shapes, dtypes or bounds that cannot be served."""
