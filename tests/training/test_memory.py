"""Memory that stays with the process while it trains on a CPU."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import topolearn
from topolearn.training import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource, sys, torch
from topolearn import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(12 << 20)  # 48 MiB, more than glibc ever keeps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

torch.set_num_threads(1)
faults()
without, base = faults(), resident()
with kept_memory():
    for _ in range(3):
        faults()  # finds its places
    inner = faults()
    with kept_memory():
        pass
    again, held = faults(), resident()
print(without, inner, again, base, held, resident())
"""


@glibc
def test_freed_memory_is_used_again_and_given_back_in_the_end() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env={})
    without, inner, again, base, held, left = map(float, ran.stdout.split())
    assert inner < 0.1 * without, "each of ten tensors cost a page fault per 4 KiB, and does no more"
    assert again < 0.1 * without, "leaving an inner one changes nothing"
    assert base + 40 < held < base + 500, "one tensor, and holes that are too small by the alignment"
    assert left < base + 20, "the memory is the system's again"


THREAD = """
import threading, torch
from topolearn.training.memory import kept_memory

def work():
    for _ in range(5):
        assert float(torch.ones(32 << 20).sum()) == 32 << 20

with kept_memory():
    thread = threading.Thread(target=work)
    thread.start()
    work()
    thread.join()
print("fine")
"""


@glibc
def test_other_threads_get_large_blocks_too() -> None:
    ran = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True, check=True, env={})
    assert ran.stdout == "fine\n"


class Libc:
    """What stands in for the C library."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append((pad,))
        return 1


def test_what_it_is_worth_is_said() -> None:
    said = " ".join((topolearn.kept_memory.__doc__ or "").split())
    assert "a search step cost 1.35 times a step of the plain network without it, and 1.20" in said


def test_it_is_set_once_and_put_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    with pytest.raises(RuntimeError), memory.kept_memory(), memory.kept_memory():
        raise RuntimeError
    assert libc.calls == [(-4, 0), (-1, -1), (-4, 65536), (-3, 32 << 20), (-1, 64 << 20), (0,)]


def nothing(*_: object) -> ctypes.CDLL:
    raise AssertionError("the C library must not be touched")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=7:glibc.malloc.check=1")],
)
def test_settings_of_the_environment_are_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ctypes, "CDLL", nothing)
    with memory.kept_memory():
        pass


@pytest.mark.parametrize("error", [ValueError, OSError, None])
def test_other_systems_are_left_alone(error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str | None:
        if error is None:
            return None
        raise error

    for setting in memory._SETTINGS:
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setattr(memory.os, "confstr", confstr, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", nothing)
    with memory.kept_memory():
        pass


def test_a_run_on_a_cpu_keeps_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.training.runs import run

    libc = Libc()
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    run(epochs=2)
    assert libc.calls[0] == (-4, 0)
    assert libc.calls[-1] == (0,)
