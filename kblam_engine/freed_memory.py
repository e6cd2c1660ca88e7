"""Memory that Python has freed and the C library keeps for later."""

from __future__ import annotations

import ctypes
import gc


def give_back_freed() -> None:
    """Collect garbage and give freed memory back to the system, where the C library can (glibc)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, macOS, Windows
        pass
