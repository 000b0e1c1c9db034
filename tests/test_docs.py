"""README and docs are true: their snippets run from top to bottom, their files exist, the shown error is the real one.

The snippets of a page run in one empty folder. Commands run one by one. Python snippets that follow each other are one
program. A snippet whose first line is a comment with a file's name becomes that file; a graph among these must load.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest

import topolearn

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SETUP = ("git clone", "make ", "pip install", "python -m venv")
"""Setting up from nothing inside the suite would take too long; running the suite would not end."""
SHORT = {"topolearn fit models/gpt12x64-bytes-learned.yaml": " --set steps_per_epoch=1"}
"""Starts of commands that take minutes -> what is added to them here."""

NEEDS = {"tracking": ("mlflow", "wandb"), "search": ("optuna",), "optuna_study": ("optuna",)}
"""Page or example -> modules of extras that it needs."""

SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml|txt))\n")


def snippets(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every snippet."""
    return SNIPPET.findall(page.read_text(encoding="utf-8"))


def files(page: Path) -> dict[str, str]:
    """The files that a page shows."""
    named = ((FILE.match(text), text) for _, text in snippets(page))
    return {match[1]: text for match, text in named if match}


def programs(page: Path) -> Iterator[str | list[str]]:
    """What a page runs, in its order: commands, and Python programs as arguments of a process."""
    shown = [(language, text) for language, text in snippets(page) if not FILE.match(text)]
    for language, group in groupby(shown, key=lambda snippet: snippet[0]):
        text = "\n".join(text for _, text in group)
        if language == "python":
            yield [sys.executable, "-c", text]
        elif language == "sh":
            lines = (line.partition("  #")[0].strip() for line in text.replace("\\\n", "").splitlines())
            for line in lines:
                if line and not line.startswith(("#", *SETUP)):
                    yield line + next((more for start, more in SHORT.items() if line.startswith(start)), "")


def environment(folder: Path) -> dict[str, str]:
    """The command of this environment, wherever it is installed; a home without data."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder)}


def skip_without(name: str) -> None:
    for module in NEEDS.get(name, ()):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")


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


@pytest.mark.parametrize("page", [page for page in PAGES if list(programs(page))], ids=lambda page: page.stem)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    skip_without(page.stem)
    for name, text in files(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for program in programs(page):
        run(program, tmp_path)


def test_there_are_snippets() -> None:
    assert sum(len(list(programs(page))) for page in PAGES) > 40


def graphs() -> list[tuple[str, str]]:
    """(file, text) of every graph that a page shows."""
    shown = [item for page in PAGES for item in files(page).items()]
    return [(name, text) for name, text in shown if name.endswith(".yaml") and "\nnodes:" in text]


@pytest.mark.parametrize(("name", "text"), graphs(), ids=[name for name, _ in graphs()])
def test_graphs_load(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert topolearn.load_graph(tmp_path / name).candidates


def test_the_shown_error_is_the_real_one(tmp_path: Path) -> None:
    page = ROOT / "docs" / "graph-files.md"
    (shown,) = [text for _, text in snippets(page) if text.startswith("error:")]
    name, line, *_ = shown.removeprefix("error: ").split(":")
    lines = files(page)[name].splitlines(keepends=True)
    lines[int(line) - 1] = lines[int(line) - 1].replace("learnable: true", "learnabel: true")
    (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "topolearn", "validate", name],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == shown


def imports() -> list[tuple[str, str]]:
    """(module, name) of what snippets and examples import from the rooms of topolearn."""
    texts = [text for page in PAGES for language, text in snippets(page) if language == "python"]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")]
    found = re.findall(r"^from (topolearn[\w.]*) import (.*)$", "\n".join(texts), re.MULTILINE)
    return sorted({(module, name.strip()) for module, names in found for name in names.split(",")})


@pytest.mark.parametrize(("module", "name"), imports())
def test_what_docs_import_is_public(module: str, name: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(rf"automodule:: {re.escape(module)}\n +:members: (.*)", page)
    listed += re.findall(r"currentmodule:: topolearn\n(.*?)```", page, re.DOTALL) if name in topolearn.__all__ else []
    assert re.search(rf"\b{name}\b", " ".join(listed))


def links() -> list[tuple[Path, str]]:
    """(page, target) of every link to a file."""
    pages = [*PAGES, *(ROOT / name / "README.md" for name in ("models", "benchmarks", "export"))]
    found = [(page, re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))) for page in pages]
    return sorted({(page, target) for page, targets in found for target in targets})


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: getattr(value, "stem", value))
def test_links_lead_to_files(page: Path, target: str) -> None:
    assert (page.parent / target).exists()


def test_the_citation_has_the_version_of_the_package() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [topolearn.__version__]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run_and_are_short(example: Path, tmp_path: Path) -> None:
    skip_without(example.stem)
    assert len(example.read_text(encoding="utf-8").splitlines()) < 100
    assert "done:" in run([sys.executable, str(example)], tmp_path)
