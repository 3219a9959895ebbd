"""Decision margins: how far a token was from being another one."""

from __future__ import annotations

NARROW_FLOAT32 = 1e-4
"""Below this, batch and tree shape may change a float32 decision (design: verification)."""
