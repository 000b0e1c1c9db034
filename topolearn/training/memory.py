"""Keeps freed memory with the process while it trains on a CPU.

glibc takes the memory of a large tensor from the kernel and returns it as soon as the tensor is freed.
So every step pays a page fault for each 4 KiB of every activation; for a relu over 64 MB that is most
of the time. If the memory is kept, the next step reuses it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4

# Blocks of any size come from the heap (M_MMAP_THRESHOLD would do that too, but glibc before 2.35 accepts
# at most 32 MiB), and memory freed at the end of the heap is not returned.
_KEEP = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
# Any setting permanently stops glibc from adjusting its thresholds. Without that, glibc raises them as large
# blocks are freed, up to these values, which a process reaches when it frees a tensor of 32 MiB. 65536 is
# the default.
_GIVE_BACK = ((_M_MMAP_MAX, 65536), (_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 64 << 20))

_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")

_lock = threading.Lock()
_entered = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Speed up training on a CPU: inside this context, the process keeps freed memory and reuses it.

    :func:`topolearn.fit` uses it already. In your own training loop, write::

        with topolearn.kept_memory():
            for images, targets in batches: ...

    Measured side by side on a CPU, a search step cost 1.35 times a step of the plain network without it, and 1.20
    times with it. Tensors above 32 MiB gain most, because glibc already keeps smaller ones.

    The setting is for the whole process, but affects only memory that the main thread allocates, because the heaps of
    other threads hold no large blocks. The process keeps its peak memory until the context ends, and then returns it to
    the system. Nothing happens if the C library is not glibc, or if the environment already sets its thresholds
    (``MALLOC_MMAP_THRESHOLD_`` and the like). You may enter it several times.
    """
    global _entered
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _entered += 1
        if _entered == 1:
            _set(libc, _KEEP)
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                _set(libc, _GIVE_BACK)
                libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc and the environment does not set its memory thresholds, else None."""
    if any(name in os.environ for name in _SETTINGS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # Windows, macOS, musl
        return None
    if not version or not version.startswith("glibc"):
        return None
    libc = ctypes.CDLL(None)
    libc.mallopt.argtypes, libc.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    libc.malloc_trim.argtypes, libc.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return libc


def _set(libc: ctypes.CDLL, values: tuple[tuple[int, int], ...]) -> None:
    for parameter, value in values:
        libc.mallopt(parameter, value)  # if it rejects a value, the old one stays: slower, never wrong
