"""Where the paged kernels are tested: PyTorch on the CPU, Triton's interpreter, a GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from threadpoolctl import threadpool_limits

TRITON_MODULES = ("triton_attention", "triton_expansion", "triton_walk", "triton_commit")


def _interpret() -> None:
    """Import our Triton kernels for the interpreter, whoever imported triton before us.

    The choice falls when a function is decorated, so Triton's own functions, decorated earlier for
    the compiler, are wrapped again.
    """
    import_module("triton.experimental.gluon")  # decorates too, and could not at the first launch
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    for name, module in list(sys.modules.items()):
        if name.startswith("triton.language"):
            for key, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    setattr(module, key, InterpretedFunction(value.fn))
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    for name in TRITON_MODULES:
        import_module(f"kernels.{name}")
    if before is None:
        del os.environ["TRITON_INTERPRET"]


HAVE_TRITON = find_spec("triton") is not None
if HAVE_TRITON and not torch.cuda.is_available():
    _interpret()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The interpreter multiplies small matrices with NumPy, whose threads would only wait."""
    with threadpool_limits(1):
        yield


@pytest.fixture(
    params=["torch", "triton", pytest.param("cuda", marks=pytest.mark.gpu)], ids=lambda name: name
)
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.device]:
    """A device, with the CPU's two ways of computing: PyTorch, and Triton interpreted.

    On a machine with a GPU the interpreter is not there: Triton is tested by ``-m gpu``.
    """
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        yield torch.device("cuda")
        return
    if request.param == "triton" and not HAVE_TRITON:
        pytest.skip("triton is not installed")
    if request.param == "triton" and torch.cuda.is_available():
        pytest.skip("Triton runs compiled here: pytest -m gpu")
    if request.param == "torch":
        import kernels.backend

        monkeypatch.setattr(kernels.backend, "interpreting", lambda: False)
    yield torch.device("cpu")


class Bands:
    """Puts tensors between poisoned bands, and tells whether anybody wrote into these."""

    WIDTH = 512  # elements

    def __init__(self) -> None:
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def around(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values, contiguous, in the middle of a buffer of NaN or of absurd numbers."""
        poison = torch.nan if tensor.is_floating_point() else 2**30 + 5
        size = tensor.numel() + 2 * self.WIDTH
        buffer = torch.full((size,), poison, dtype=tensor.dtype, device=tensor.device)
        self._buffers.append((buffer, buffer.clone()))
        inside = buffer[self.WIDTH : size - self.WIDTH].view(tensor.shape)
        inside.copy_(tensor)
        return inside

    def intact(self) -> bool:
        """Whether all bands are as they were, bit for bit."""
        return all(
            torch.equal(_bytes(now[edge]), _bytes(before[edge]))
            for now, before in self._buffers
            for edge in (slice(None, self.WIDTH), slice(-self.WIDTH, None))
        )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture
def bands() -> Bands:
    """Bands of this test."""
    return Bands()
