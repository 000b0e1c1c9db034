"""Runs as jobs of a cluster: of Slurm's commands as a test plays them, and of submitit's local executor."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.studies import fake_slurm
from tests.studies.test_compare import LEARNED, PREV, wait_for, write_recipes
from tests.training.runs import ROOT, assert_same, quick_fit
from topolearn.errors import OptionError, TrainingError
from topolearn.studies import Comparison
from topolearn.studies.cluster import Cluster, _minutes
from topolearn.studies.compare import compare

pytest.importorskip("submitit")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the recipes; subprocesses find the package."""
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


@pytest.fixture
def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with Slurm's commands; the folder has what was submitted."""
    from submitit.slurm.slurm import SlurmJob

    SlurmJob.watcher.clear()  # it remembers the jobs of other tests by their numbers
    place = folder / "slurm-state"
    (place / "bin").mkdir(parents=True)
    monkeypatch.setenv("FAKE_SLURM", str(place))
    monkeypatch.setenv("PATH", os.pathsep.join([str(fake_slurm.install(place / "bin")), os.environ["PATH"]]))
    yield place
    for pid in place.glob("*.pid"):  # those that were cancelled wait for what Slurm says
        for process in fake_slurm.processes(pid.stem):
            process.kill()


def on_cluster(*recipes: str, **options: Any) -> Comparison:
    given = {"seeds": (0,), "out": "out", "device": "cpu", "slurm": {"time": "1:00:00"}, "quiet": True}
    return compare(list(recipes), **given | options)


class Meanwhile(threading.Thread):
    """Does something once a condition holds."""

    def __init__(self, condition: Callable[[], bool], action: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.condition, self.action, self.error = condition, action, ""
        self.start()

    def run(self) -> None:
        try:
            wait_for(self.condition, 300)
            self.action()
        except BaseException as error:
            self.error = repr(error)
            os.kill(os.getpid(), signal.SIGINT)


def test_options_of_sbatch(slurm: Path) -> None:
    given = {"time": "1-12", "partition": "gpu", "gpus": 1, "cpus": 4, "memory": "32G", "gres_flags": "x"}
    assert Cluster.of(given, None) == Cluster(
        2160, {"partition": "gpu", "gpus": "1", "cpus-per-task": "4", "mem": "32G", "gres-flags": "x"}
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("4:00:00", 240), ("1-0", 1440), ("1-12:30", 2190), ("1-0:0:1", 1441)],
)
def test_times_of_slurm(text: str, minutes: int) -> None:
    assert _minutes(text) == minutes


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "say how long a run may take on the cluster: --slurm time=4:00:00"),
        ({"time": "soon"}, "the time is 'soon'; write minutes"),
        ({"time": "0"}, "the time is 0; say how long a run may take"),
        ({"time": "5", "nodes": 2}, "Slurm's option 'nodes' is set by compare"),
        ({"time": "5", "wrap x": 2}, "'wrap x' is no option of Slurm"),
    ],
)
def test_what_is_wrong_with_options(slurm: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        on_cluster(LEARNED, slurm=options)
    assert not Path("out").exists()


def test_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(OptionError, match="there is no Slurm here: no command 'srun'"):
        on_cluster(LEARNED)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(OptionError, match=r"submitit is not installed; run: pip install 'topolearn-torch\[slurm\]'"):
        on_cluster(LEARNED)


def test_the_command_line(folder: Path, run: Any) -> None:
    status, _, err = run("compare", LEARNED, "--launcher", "slrum")
    assert (status, err) == (2, "error: --launcher slrum: write processes or slurm\n")
    status, _, err = run("compare", LEARNED, "--slurm", "time=5")
    assert (status, err) == (2, "error: --slurm is for jobs of Slurm; give --launcher slurm too\n")


def test_jobs_that_slurm_refuses(slurm: Path) -> None:
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition >&2; exit 1\n")
    with pytest.raises(TrainingError, match=r"Slurm does not take the jobs: .*invalid partition.*; check the options"):
        on_cluster(LEARNED)


def test_runs_are_jobs_and_one_that_fails_leaves_the_others_alone(slurm: Path, run: Any) -> None:
    damaged = Path("out", "prev", "seed-0")
    quick_fit(PREV, out=damaged, epochs=2, seed=0, export=False)
    (damaged / "weights.safetensors").unlink()
    (damaged / "checkpoint").mkdir()
    (damaged / "checkpoint" / "state.pt").write_bytes(b"\x00")
    options = "--jobs 1 --launcher slurm --slurm time=10 --slurm partition=gpu --slurm cpus=2 --slurm memory=4G"
    status, out, err = run(
        "compare", LEARNED, PREV, *["--seeds", "0", "--out", "out", "--device", "cpu"], *options.split()
    )
    assert status == 1
    assert re.search(r"^submitted 2 jobs to the cluster, 100_0 first; logs are in out/slurm$", err, re.MULTILINE)
    assert re.search(r"^learned, seed 0: accuracy .* of training; 1 of 2 runs are finished$", err, re.MULTILINE)
    assert err.splitlines()[-1].startswith(f"error: prev, seed 0: {damaged}/checkpoint/state.pt: damaged")
    assert "0 of 1" in out
    script = (slurm / "100.sbatch").read_text()
    for option in ("partition=gpu", "time=10", "cpus-per-task=2", "mem=4G", "array=0-1%1", "job-name=topolearn"):
        assert f"#SBATCH --{option}\n" in script
    assert "--cpus-per-task=2" in script.split("srun ")[1]
    assert "fine_tune 1/1" in Path("out/slurm/100_0_0_log.err").read_text()
    # The same command runs only what is left.
    shutil.rmtree(damaged)
    found = on_cluster(LEARNED, PREV)
    assert found.failures == ()
    assert [len(row.runs) for row in found.rows] == [1, 1]
    assert "array" not in (slurm / "101.sbatch").read_text()


@pytest.mark.slow  # on a busy machine, the stand-in for Slurm may end the job before it has queued itself again
def test_a_job_that_slurm_takes_back_goes_on_later(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path("out", "learned", "seed-0")

    def take_back() -> None:
        for process in fake_slurm.processes("100")[1:]:
            process.send_signal(signal.SIGUSR2)

    meanwhile = Meanwhile((place / "checkpoint" / "state.pt").is_file, take_back)
    found = on_cluster(LEARNED, epochs=60, quiet=False)
    assert not meanwhile.error
    assert found.failures == ()
    assert "interrupted; go on with --resume" in Path("out/slurm/100_0_log.err").read_text()
    assert "Requeued job 100" in Path("out/slurm/100_0_log.out").read_text()
    quick_fit(LEARNED, out=Path("alone"), epochs=60, seed=0)
    assert_same(Path("alone"), place)


def test_a_job_that_ends_without_a_word(slurm: Path) -> None:
    def kill() -> None:
        for process in fake_slurm.processes("100")[1:]:
            process.kill()

    meanwhile = Meanwhile(Path("out", "learned", "seed-0", "checkpoint", "state.pt").is_file, kill)
    (failure,) = on_cluster(LEARNED, epochs=5000).failures
    assert not meanwhile.error
    log = Path("out/slurm/100_0_log.err").resolve()
    assert str(failure) == f"learned, seed 0: job 100 ended as FAILED; its log is {log}"


# submitit keeps no watch over its local processes.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("kind", ["slurm", "local"])
def test_an_interrupted_comparison_cancels_its_jobs_and_goes_on(
    slurm: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("topolearn.studies.cluster._KIND", kind)
    place = Path("out", "learned", "seed-0")
    meanwhile = Meanwhile((place / "checkpoint" / "state.pt").is_file, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        on_cluster(LEARNED, epochs=100, quiet=False)
    assert not meanwhile.error
    said = capsys.readouterr().err
    assert "cancelled 1 job; runs that had begun stop with a checkpoint\n" in said
    assert "interrupted; 0 of 1 runs are finished; give the same command to resume the rest (out)\n" in said
    fits = [each for each in psutil.process_iter(["cmdline"]) if str(place) in " ".join(each.info["cmdline"] or ())]
    _, alive = psutil.wait_procs(fits, 60)
    assert not alive
    assert not (place / "weights.safetensors").exists()
    epochs = len((place / "history.jsonl").read_text().splitlines())
    assert (place / "checkpoint" / "state.pt").is_file()
    (row,) = on_cluster(LEARNED, epochs=100).rows
    assert [run.seed for run in row.runs] == [0]
    assert 0 < epochs < 100


def test_a_job_needs_no_torch_besides_the_run_itself() -> None:
    program = "import sys, topolearn.studies.cluster_run; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_a_finished_run_of_a_gpu_is_taken_on_a_machine_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topolearn.studies.cluster._KIND", "local")
    quick_fit(LEARNED, out=Path("out/learned/seed-0"), epochs=2, seed=0, precision="bfloat16", export=False)
    assert [len(row.runs) for row in on_cluster(LEARNED).rows] == [1]
    assert not Path("out/slurm").exists()
