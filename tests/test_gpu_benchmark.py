"""`python -m benchmarks.gpu` works without a GPU, so that it works on the day when there is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize("part", gpu.PARTS)
def test_a_part(part: str) -> None:
    rows = gpu.PARTS[part](torch.device("cpu"), True)
    assert rows
    if part == "tests":
        assert rows[0]["ratio"].startswith("not run")
        return
    for row in rows:
        assert float(row["ratio"]) > 0
        assert float(row["milliseconds"]) > 0
        if part.startswith("export"):
            assert float(row["difference"]) < 1e-4


def test_finished_parts_stay_and_time_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.jsonl"
    command = ["gpu", "--device", "cpu", "--quick", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(gpu, "PARTS", {"tests": gpu.tests, "step complete stage": gpu.PARTS["step complete stage"]})
    gpu.main()
    assert [json.loads(line)["part"] for line in out.read_text().splitlines()] == ["tests", "step complete stage"]
    first = capsys.readouterr().out
    assert "| complete stage, search, eager |" in first
    monkeypatch.setattr(sys, "argv", [*command, "--minutes", "0"])
    gpu.main()
    assert capsys.readouterr().out == first
    out.unlink()
    gpu.main()
    assert "| step complete stage |  | not measured |  |" in capsys.readouterr().out


def test_a_part_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    (row,) = gpu.in_child("no such part", 60) or []
    assert row["ratio"].startswith("failed: ")
    assert "invalid choice: 'no such part'" in row["ratio"]
    assert gpu.in_child("step ResNet-38", 0.01) is None
