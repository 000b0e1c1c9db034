"""A thousand nodes, completely connected: correct, and under 2 GB. Times are measured, never tested."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

COMPLETE = """\
topolearn: 1
name: complete
inputs: {image: [3, 8, 8]}
nodes:
  n[1..1000]: {op: conv, out_channels: 3, kernel: 1}
edges:
  - {from: image, to: n1}
  - {connect: complete, nodes: "n[1..1000]", learnable: true}
outputs: [n1000]
"""


def run(code: str, *arguments: str) -> str:
    """Run ``code`` in a process of its own and return what it printed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Not ru_maxrss, which also counts what the parent held when it started the process.
PEAK = """
    status = open("/proc/self/status").read().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 2 * 10**9, f"{peak / 10**9:.2f} GB"
"""


def test_half_a_million_edges_load_prune_write_and_read_back(tmp_path: Path) -> None:
    macro, explicit = tmp_path / "complete.yaml", tmp_path / "pruned.yaml"
    macro.write_text(COMPLETE)
    prune = """
        import sys
        import topolearn
        from topolearn.graph import KeepEdges, Topology

        graph = topolearn.load_graph(sys.argv[1]).verify()
        assert (len(graph.nodes), len(graph.edges)) == (1001, 499_501)
        assert sum(map(len, graph.candidates.values())) == graph.largest_candidate_set * 1000 // 2 == 499_500
        # Every second candidate, and the one from the node before so that nothing is cut off.
        keep, weights = [], []
        for index, edge in enumerate(graph.edges):
            near = edge.src == "image" or int(edge.dst[1:]) - int(edge.src[1:]) == 1
            keep.append(near or index % 2 == 0)
            weights.append(1.0 + index / len(graph.edges))
        topology = Topology.of(graph, keep, weights)
        small = KeepEdges(topology)(graph).verify()
        assert len(small.nodes) == 1001 and len(small.edges) == sum(keep)
        assert not small.candidates
        assert [edge.weight for edge in small.edges] == [w for w, kept in zip(topology.weights, keep) if kept]
        topolearn.dump_graph(small, sys.argv[2])
        print(len(small.edges), hash((small.name, *(hash(e.weight) for e in small.edges))) % 10**12)
    """
    read = """
        import sys
        import topolearn

        small = topolearn.load_graph(sys.argv[1])
        assert small.to_yaml() == open(sys.argv[1]).read()
        assert len(small.nodes) == 1001
        print(len(small.edges))
    """
    count = int(run(textwrap.dedent(prune) + textwrap.dedent(PEAK), str(macro), str(explicit)).split()[0])
    assert 249_000 < count < 252_000
    assert int(run(textwrap.dedent(read) + textwrap.dedent(PEAK), str(explicit))) == count
