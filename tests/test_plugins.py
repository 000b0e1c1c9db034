"""Plug-ins: the package in tests/plugin, found through its entry point as if it were installed."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"

GRAPH = """
topolearn: 1
name: plugged
inputs: {image: [1, 4, 4]}
nodes:
  a: {op: example.scale, factor: 3.0}
  b: {op: example.scale}
  join: {op: identity}
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: [a, b]}
  - {from: [a, b], to: join, learnable: true}
  - {from: join, to: head}
outputs: [head]
"""

PROGRAM = """
import topolearn, torch
graph = topolearn.load_graph("plugged.yaml")
learner = topolearn.learners.make_learner("example-first", graph)
net = topolearn.prune(topolearn.compile(graph, learner))
assert list(net.graph.nodes) == ["image", "a", "join", "head"], list(net.graph.nodes)
x = torch.ones(1, 1, 4, 4)
assert torch.equal(net.dag.nodes["a"](x), 3 * x)
"""


def install(site: Path, value: str) -> None:
    """What installing the package leaves in a site folder: its metadata, and the code on the path."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["topolearn.plugins"] == {"example": "topolearn_example"}
    info = site / "topolearn_example-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[topolearn.plugins]\nexample = {value}\n")


def run(program: str, folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    path = os.pathsep.join(map(str, (site, PLUGIN, root)))
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plugin_adds_ops_and_learners(tmp_path: Path) -> None:
    install(tmp_path / "site", "topolearn_example")
    (tmp_path / "plugged.yaml").write_text(GRAPH)
    done = run(PROGRAM, tmp_path, tmp_path / "site")
    assert done.returncode == 0, done.stderr


OLD = """
from topolearn_example import First
from topolearn.learners import register_learner

@register_learner("old")
class Old(First):
    def heed_lr(self, lr):
        pass
"""


def test_a_plugin_with_an_old_method_name_says_the_new_one(tmp_path: Path) -> None:
    install(tmp_path / "site", "old_example")
    (tmp_path / "site" / "old_example.py").write_text(OLD)
    program = "from topolearn.cli import main; import sys; sys.argv = ['topolearn', 'list', 'learners']; main()"
    done = run(program, tmp_path, tmp_path / "site")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: plug-in 'example' (old_example) cannot be loaded: ValueError: learner 'Old' of old_example has a"
        " method 'heed_lr', which is now called 'on_learning_rate'; rename it; fix or uninstall it\n"
    )


@pytest.mark.parametrize("value", ["topolearn_missing", "topolearn_example:nothing"])
def test_a_broken_plugin_is_named(tmp_path: Path, value: str) -> None:
    install(tmp_path / "site", value)
    program = "from topolearn.cli import main; import sys; sys.argv = ['topolearn', 'validate', 'digits']; main()"
    done = run(program, tmp_path, tmp_path / "site")
    assert done.returncode == 2
    assert done.stderr.startswith("error: plug-in 'example'")
    assert "Traceback" not in done.stderr
