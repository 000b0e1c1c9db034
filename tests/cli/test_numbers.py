"""Numbers that cannot be used, from the command line and from Python: one line in plain words, for every option."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

import topolearn
from tests.training.runs import graph
from topolearn.cli.app import app
from topolearn.data import load_data
from topolearn.errors import TopolearnError
from topolearn.learners import MaskConnect
from topolearn.recipes import Recipe
from topolearn.studies.compare import compare
from topolearn.studies.sweep import sweep

Run = Callable[..., tuple[int, str, str]]

BAD = ("x", "nan", "-1", "1e3", "0.5")
FOREIGN = re.compile(r"Input should|valid (integer|number)|parse|pydantic|Value error|Usage|[╭│╰]")
"""Words of the libraries behind the command line, and their boxes."""

ARGUMENTS = {
    "fit": ("digits",),
    "compare": ("digits",),
    "lift": ("resnet18", "-o", "net.yaml"),
    "bench": ("run",),
    "predict": ("run",),
    "shrink": ("resnet18", "--weights", "w.pt", "--data", "digits", "--budget", "macs=0.5", "--out", "small"),
}


def numeric() -> list[tuple[str, str]]:
    """Every option of every command that takes a number: the command, and the option."""
    found = []
    for command in app.registered_commands:
        assert command.callback is not None
        for name, kind in get_type_hints(command.callback).items():
            if {int, float} & {kind, *get_args(kind)}:
                found.append((command.name or command.callback.__name__, f"--{name.replace('_', '-')}"))
    return found


def test_all_options_with_numbers_are_found() -> None:
    assert {command for command, _ in numeric()} == ARGUMENTS.keys()
    assert {option for command, option in numeric() if command == "fit"} == {
        "--epochs",
        "--batch-size",
        "--lr",
        "--seed",
    }


@pytest.mark.parametrize(("command", "option"), numeric())
def test_a_number_that_cannot_be_used(
    command: str, option: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in BAD:
        if option == "--lr" and value in ("1e3", "0.5"):
            continue
        status, out, err = run(command, *ARGUMENTS[command], option, value)
        assert (status, out, err.count("\n")) == (2, "", 1), (value, err)
        assert err.startswith("error: "), (value, err)
        assert not FOREIGN.search(err), (value, err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("fit", "digits", "--epochs", "0"), "'--epochs' should be at least 1; see 'topolearn fit --help'"),
        (("fit", "digits", "--epochs", "1e3"), "'--epochs' should be a whole number; see 'topolearn fit --help'"),
        (("fit", "digits", "--lr", "x"), "'--lr' should be a number; see 'topolearn fit --help'"),
        (("fit", "digits", "--lr", "nan"), "'lr' of fit is nan, but it should be a finite number"),
        (("fit", "digits", "--seed", "-1"), "'--seed' should be at least 0; see 'topolearn fit --help'"),
        (("fit",), "missing argument 'GRAPH|RECIPE'; see 'topolearn fit --help'"),
        (("list", "things"), "'kind': 'things' is not one of 'graphs', 'learners', 'ops', 'data', 'training'; see"),
        (("fit", "digits", "--nothing"), "no such option: --nothing; see 'topolearn fit --help'"),
        (("nothing",), "no such command 'nothing'; see 'topolearn --help'"),
    ],
)
def test_misuse_is_told_in_one_line(arguments: tuple[str, ...], text: str, run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {text}")


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    status, out, err = run()
    assert (status, err.strip()) == (2, "")
    assert "Usage: topolearn" in out


@pytest.mark.parametrize("value", [0, -1, 1e3, 0.5, math.nan, math.inf, "x", [1], True, 10**30])
@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "seed"])
def test_numbers_of_fit(name: str, value: Any) -> None:
    if (name == "seed" and value == 0) or (name == "lr" and value in (1e3, 0.5, 10**30)):
        assert float(getattr(Recipe.of("digits", **{name: value}), name)) == float(value)
        return
    refused(lambda: Recipe.of("digits", **{name: value}), f"'{name}' of fit is ")


@pytest.mark.parametrize("value", [-1, 1e30, math.nan, "x"])
def test_numbers_of_other_functions(value: Any, tmp_path: Path) -> None:
    small = graph()
    net = topolearn.compile(small, MaskConnect(small))
    sets = [(torch.zeros(3, 4, 4), number) for number in (0, 1)]
    for name in ("size", "channels", "classes", "workers"):
        refused(lambda name=name: load_data((sets, sets), **{name: value}), f"'{name}' is ")
    refused(lambda: compare("digits", seeds=value, out=tmp_path), "seed")
    refused(lambda: compare("digits", jobs=value, out=tmp_path), "'jobs' is ")
    refused(lambda: sweep(tmp_path, shares=value), "'shares' is ")
    refused(lambda: sweep(tmp_path, seeds=value), "'seeds' is ")
    refused(lambda: sweep(tmp_path, seeds=[value]), "'seeds' is ")
    refused(lambda: MaskConnect(small, fan_in=value), "'fan_in' of learner 'maskconnect' is ")
    if value != 1e30:
        refused(lambda: topolearn.optimizers(net, lr=value), "optimizer 'sgd'")
        refused(lambda: topolearn.optimizers(net, lr=0.1, momentum=value), "optimizer 'sgd'")


def refused(call: Callable[[], object], text: str) -> None:
    with pytest.raises(TopolearnError) as caught:
        call()
    assert text in str(caught.value)
    assert not FOREIGN.search(str(caught.value))
