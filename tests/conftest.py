"""What every test gets: options, markers, and guards against what a test might leave behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The tests run one process per core: more threads than that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# MLflow reports its use over the network, unless it is told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # for `from tests.strategies import …` whichever way pytest is started
    sys.path.insert(0, str(ROOT))

# The same examples on every run: a property that fails here fails for everyone.
settings.register_profile("topolearn", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("topolearn")

# Set by libraries when they are first imported or used, not by tests.
_LIBRARIES_SET = ("PYTEST_", "KMP_", "OMP_", "TORCH", "TRITON_", "CUDA_", "PYTORCH_", "NCCL_", "COLUMNS", "LINES")


# A shell starts what runs in its background with Ctrl-C ignored, and so do its children: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked 'slow' too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if not item.get_closest_marker("slow")]
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(_LIBRARIES_SET)}


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaks environment variables or leaves another working folder."""
    environment, folder = _environment(), os.getcwd()
    yield
    after, folder_after = _environment(), os.getcwd()
    if folder_after != folder:
        os.chdir(folder)
    changed = sorted(key for key in environment.keys() | after.keys() if environment.get(key) != after.get(key))
    for key in changed:
        if key in environment:
            os.environ[key] = environment[key]
        else:
            del os.environ[key]
    assert not changed, f"the test leaves environment variables changed: {', '.join(changed)}; use monkeypatch.setenv"
    assert folder_after == folder, "the test leaves another working folder; use monkeypatch.chdir"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``run("show", "digits")`` -> (exit status, stdout, stderr), in this process."""

    from topolearn import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["topolearn", *arguments])
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, captured.out, captured.err

    return call


# Workers of a DataLoader are forked by default; forked from a process in which ONNX Runtime has threads, they can hang.
multiprocessing.set_start_method("forkserver", force=True)
