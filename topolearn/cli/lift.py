"""``topolearn lift``: turn a network of torchvision or timm into a graph file and a weights file."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from topolearn.cli.common import say, sides
from topolearn.errors import OptionError
from topolearn.files import check_target, write_atomically

_YAML = (".yaml", ".yml")


def lift(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network of torchvision (resnet50 …), or timm:NAME.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="A YAML file for the graph; the weights go beside it."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Pretrained torchvision weights (DEFAULT, IMAGENET1K_V2 …), or a file; default: random."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N|H,W", help="Height and width of the images; default: 224.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes; if it changes, the last layer starts at random.")
    ] = None,
) -> None:
    """Turn a network into a graph that computes the same, with its residual branches as learnable edges.

    You can lift every classification network of torchvision and most of timm. Then train with
    `topolearn fit FILE.yaml --weights FILE.safetensors`.
    """
    if output.suffix not in _YAML:
        raise OptionError(f"-o {output}: the graph goes into a YAML file, such as {output.stem or 'graph'}.yaml")
    image = None if size is None else sides(size)
    tensors = output.with_suffix(".safetensors")
    if weights is not None:
        check_target(tensors, [Path(weights)])
    from topolearn import dump_graph
    from topolearn import lift as run
    from topolearn.report import facts
    from topolearn.runs.config import NEW_LAYER
    from topolearn.runs.tensor_files import save_tensors

    net = run(model, weights, size=image, classes=classes)
    save_tensors(tensors, net.state_dict(), {"graph": net.graph.name, "format": 1, "about": net.about})
    dump_graph(net.graph, output)
    if NEW_LAYER in net.about:
        comment = (
            f"# The last layer, '{net.about[NEW_LAYER]}', starts at random: it has other classes than the weights.\n"
        )
        write_atomically(output, comment.encode() + output.read_bytes())
    known = facts(net.graph)
    say(
        f"{output}, {tensors}: {known['params']:,} parameters, {known['macs']:,} MACs, {known['nodes']:,} nodes,"
        f" {known['edges']:,} edges ({known['learnable_edges']:,} learnable)"
    )
    say(f"train it with: topolearn fit {quote(str(output))} --weights {quote(str(tensors))} --data DATA")
