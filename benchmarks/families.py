"""Lift the smallest network of each family of torchvision and timm by its name, and note what can go.

    python -m benchmarks.families [NAME …] [--results results/families.csv]

A name is torchvision's, or ``timm:NAME``; without names, all of them are lifted, each in a process of its own. A family
is a module of the library, such as ``torchvision.models.swin_transformer``. ``lift`` compares the outputs; then the
graph is written, read, and built again as anybody would. Rows replace those of the same network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import FOLDER, Record, extend_file

FILE = FOLDER / "families.csv"


def smallest_of_torchvision() -> list[str]:
    """Return the smallest classification network of each module of torchvision, by parameters."""
    from torchvision import models

    families: dict[str, list[tuple[int, str]]] = {}
    for name in models.list_models(module=models):
        params = next(iter(models.get_model_weights(name))).meta["num_params"]
        families.setdefault(family_of(name), []).append((params, name))
    return [min(found)[1] for _, found in sorted(families.items())]


def family_of(name: str) -> str:
    """Return the module of the library that builds a network."""
    if name.startswith("timm:"):
        import timm

        return str(timm.model_entrypoint(name.partition(":")[2]).__module__.rpartition(".")[2])
    from torchvision import models

    return str(models.get_model_builder(name).__module__.rpartition(".")[2])


def lifted(name: str) -> Record:
    """Lift a network by its name, and return its row; ``error`` is filled if that was refused."""
    import topolearn
    from topolearn.compiler import Network
    from topolearn.format import dumps, loads
    from topolearn.graph import removables

    row = {"recipe": name, "variant": "", "seeds": "", "family": family_of(name)}
    try:
        graph = topolearn.lift(name, size=299 if name == "inception_v3" else None).graph
    except topolearn.TopolearnError as error:
        return {**row, "error": error.message}
    again = loads(dumps(graph))
    assert again == graph
    Network(again)
    found = removables(graph)
    bypassed = {edge.dst for edge in graph.edges if edge.learnable and edge.weight == 0.0}
    blocks = [each for each in found if f"{each.id}_sum" in bypassed]
    nodes = {name for each in found for name in each.nodes}
    cost = graph.cost
    figures = {
        "params": cost.params,
        "macs": cost.macs,
        "branches": len(found) - len(blocks),
        "blocks": len(blocks),
        "params_can_go": sum(cost.nodes[node].params for node in nodes),
        "macs_can_go": sum(cost.nodes[node].macs for node in nodes),
    }
    return {
        **row,
        "becomes": "parts" if any(node.op == "part" for node in graph.nodes.values()) else "nodes",
        **{key: str(n) for key, n in figures.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--results", type=Path, default=FILE)
    args = parser.parse_args(arguments)
    if len(args.names) == 1:
        extend_file(args.results, [lifted(args.names[0])])
        return
    if not args.names:
        from tests.lifting.timm_names import TIMM

        args.names = [*smallest_of_torchvision(), *(f"timm:{name}" for name in TIMM)]
    for name in args.names:
        command = [sys.executable, "-m", "benchmarks.families", name, "--results", str(args.results)]
        print(name, "ok" if subprocess.run(command).returncode == 0 else "failed", flush=True)


if __name__ == "__main__":
    main()
