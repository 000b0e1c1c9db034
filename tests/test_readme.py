"""The README is true: its snippets run, its files exist, its numbers are the ones measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import topolearn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Setting up from nothing and running the whole suite inside the suite would not end.
SETUP = ("git clone", "make demo", "make test")
# The run of the first table takes minutes: here an epoch has one step.
SHORT = {"topolearn fit models/gpt12x64-bytes-learned.yaml": " --set steps_per_epoch=1"}


def snippets(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for snippet in snippets("sh") for line in snippet.splitlines()]
    return [line for line in lines if line and not line.startswith(SETUP)]


def environment(folder: Path) -> dict[str, str]:
    """Two threads and the command of this environment, wherever it is installed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder)}


def run(command: list[str] | str, folder: Path) -> str:
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_are_snippets() -> None:
    assert len(snippets("python")) >= 2
    assert len(commands()) >= 8
    assert len(snippets("yaml")) >= 1


def test_python_snippets_run_one_after_another(tmp_path: Path) -> None:
    program = "\n".join(snippets("python"))
    run([sys.executable, "-c", program], tmp_path)
    assert (tmp_path / "first.onnx").is_file()
    assert (tmp_path / "learned.yaml").is_file()


def test_commands_run_one_after_another(tmp_path: Path) -> None:
    for command in commands():
        run(command + next((more for start, more in SHORT.items() if command.startswith(start)), ""), tmp_path)
    assert (tmp_path / "runs" / "kept" / "graph.yaml").is_file()
    assert (tmp_path / "second.onnx").is_file()
    assert (tmp_path / "resnet38.svg").is_file()


def test_yaml_snippets_are_graphs(tmp_path: Path) -> None:
    for number, text in enumerate(snippets("yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        assert topolearn.load_graph(path).candidates


def test_the_shown_error_is_the_real_one(tmp_path: Path) -> None:
    (shown,) = [text for text in snippets("text") if text.startswith("error:")]
    broken = snippets("yaml")[0].replace("learnable: true", "learnabel: true")
    (tmp_path / "my-net.yaml").write_text(broken, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "topolearn", "validate", "my-net.yaml"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == shown


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_example_runs_and_is_short(tmp_path: Path) -> None:
    source = ROOT / "examples" / "minimal.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) < 100
    out = run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(source.parent)!r}); import minimal; minimal.main(1)",
        ],
        tmp_path,
    )
    assert "ExportReport" in out
