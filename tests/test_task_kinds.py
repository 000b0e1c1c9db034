"""The table of tasks, and that nothing else in the package tells tasks apart by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import topolearn
from topolearn.task_kinds import DEFAULT_TASK, TASK_KINDS, TaskKind, dense_tasks, kind_of
from topolearn.tasks import TASKS

PACKAGE = Path(topolearn.__file__).parent
MAY_COMPARE = ("task_kinds.py", "tasks/")
"""What a task is, and what it does."""
GRAPH_EDGES = {("recipes/recipe_file.py", "edges")}
"""Where a name of a task stands for something else: the key of a graph file."""


def test_the_table() -> None:
    assert list(TASK_KINDS) == ["classification", "segmentation", "saliency", "edges", "next_token"]
    assert all(name == kind.name for name, kind in TASK_KINDS.items())
    assert [kind.is_dense for kind in TASK_KINDS.values()] == [False, True, True, True, False]
    assert [kind.is_binary for kind in TASK_KINDS.values()] == [False, False, True, True, False]
    assert [kind.positive for kind in TASK_KINDS.values()] == ["", "", "salient", "edge", ""]
    assert [kind.is_text for kind in TASK_KINDS.values()] == [False, False, False, False, True]
    assert dense_tasks() == ["edges", "saliency", "segmentation"]


def test_every_task_of_the_table_does_something() -> None:
    assert list(TASKS) == list(TASK_KINDS)
    assert len({type(task) for task in TASKS.values()}) == len(TASKS)


def test_a_user_s_own_task_has_other_targets() -> None:
    kind = kind_of("counting")
    assert kind == TaskKind("counting", "other")
    assert not kind.is_dense
    assert not kind.is_binary


# -- comparisons ----------------------------------------------------------------------------------


def compared(tree: ast.AST) -> Iterator[str]:
    """Names of tasks in comparisons, in the cases of a ``match``, and as the keys of a dict."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare() | ast.MatchValue():
                for each in ast.walk(node):
                    if isinstance(each, ast.Constant) and each.value in TASK_KINDS:
                        yield str(each.value)
                    elif isinstance(each, ast.Name) and each.id == "DEFAULT_TASK":
                        yield DEFAULT_TASK
            case ast.Dict(keys=keys):
                names = [key.value for key in keys if isinstance(key, ast.Constant) and key.value in TASK_KINDS]
                # One alone is more likely a column of a table.
                yield from map(str, names if len(names) > 1 else ())


@pytest.mark.parametrize(
    "line",
    [
        "task == 'segmentation'",
        "'edges' != info.task",
        "task in ('saliency', other)",
        "task not in {'classification'}",
        "task == DEFAULT_TASK",
        "{'saliency': 1, 'edges': 2}[task]",
        "match task:\n  case 'saliency' | 'edges': pass",
    ],
)
def test_comparisons_are_found(line: str) -> None:
    assert list(compared(ast.parse(line)))


def test_no_task_is_told_apart_by_its_name() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(MAY_COMPARE):
            found |= {(name, each) for each in compared(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == GRAPH_EDGES
