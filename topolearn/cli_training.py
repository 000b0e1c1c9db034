"""The commands that need torch: fit, prune, export, bench. Everything heavy is imported inside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topolearn.errors import CheckpointError

if TYPE_CHECKING:
    from topolearn.report.run import Delivery
    from topolearn.training import FitResult

RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")]
Provider = Annotated[str, typer.Option(help="Execution provider of ONNX Runtime: cpu, cuda or tensorrt.")]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    for command in (fit, prune, export, bench):
        app.command()(command)


def fit(
    graph: Annotated[str, typer.Argument(metavar="GRAPH|RECIPE", help="A graph or a recipe: its name or YAML file.")],
    learner: Annotated[str | None, typer.Option(help="maskconnect, continuous, sparsemask or fixed.")] = None,
    data: Annotated[str | None, typer.Option(help="Name of a data set, or a folder of images.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Over all phases.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the weights.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Weights to start from: a file or the folder of a run.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/GRAPH-LEARNER.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the learner (fan_in=3) or of training (schedule=step, phases.fine_tune=0.2),"
            " or a value of the graph file (nodes.head.classes=10).",
        ),
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Write no ONNX file and no picture.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Learn which edges of a graph to keep, prune the rest, train what is left, export it to ONNX."""
    from topolearn import fit as run
    from topolearn.cli import overrides
    from topolearn.training.config import Recipe, apply_settings, is_recipe, open_recipe, read_recipe, recipe_graph

    document = open_recipe(graph)
    recipe = read_recipe(document) if is_recipe(document) else Recipe(graph=document.file)
    changes = overrides(settings)
    if learner is not None:
        changes["learner"] = learner
    recipe = apply_settings(recipe, changes)
    searched = recipe_graph(recipe, document.file)
    name, options = recipe.learner_and_options()
    folder = out if out is not None else Path("runs") / f"{recipe.name or f'{searched.name}-{name}'}"
    result = run(
        searched,
        name,
        data if data is not None else recipe.data,
        epochs=epochs or recipe.epochs,
        batch_size=batch_size or recipe.batch_size,
        lr=lr or recipe.lr,
        seed=recipe.seed if seed is None else seed,
        device=device,
        precision=recipe.precision if precision == "auto" else precision,
        weights=weights,
        data_root=data_root,
        out=folder,
        resume=resume,
        training=recipe.training,
        quiet=quiet,
        **options,
    )
    _close(result, folder, None if no_export else _deliver(result, folder))


def _deliver(result: FitResult, folder: Path) -> Delivery:
    from topolearn.report.run import deliver

    print("exporting to ONNX, comparing with PyTorch, timing …", file=sys.stderr)
    return deliver(result, folder)


def _close(result: FitResult, folder: Path, delivery: Delivery | None) -> None:
    from topolearn.cli import print_table
    from topolearn.report.run import comparison

    print_table(comparison(result, delivery))
    if delivery is not None:
        worst = max(delivery.export.errors.values())
        print(
            f"{delivery.export.path}: {delivery.export.size:,} bytes; ONNX Runtime differs from PyTorch by at most"
            f" {worst:.1g}"
        )
        print(f"{delivery.picture}: the learned graph")
    print(f"{folder}: graph.yaml, weights.safetensors, history.jsonl, config.yaml")


def prune(
    run_dir: RunFolder,
    out: Annotated[Path | None, typer.Option(help="Where to write; default: RUN_DIR-pruned.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another option of the learner: fan_in=2, threshold=0.1 …"),
    ] = None,
) -> None:
    """Prune anew what a run had searched, with other options of its learner, without training."""
    from topolearn.cli import overrides, print_table
    from topolearn.report.run import comparison
    from topolearn.training.reprune import reprune

    target = out if out is not None else run_dir.with_name(f"{run_dir.resolve().name}-pruned")
    result = reprune(run_dir, target, overrides(settings))
    print_table(comparison(result))
    print(f"{target}: graph.yaml, weights.safetensors, history.jsonl, config.yaml")


def export(
    run_dir: RunFolder,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The ONNX file.")],
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    dynamic: Annotated[str, typer.Option(help="Axes that may change: batch,height,width, or none.")] = "batch",
    provider: Provider = "cpu",
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare with PyTorch.")] = False,
) -> None:
    """Export the network of a run to ONNX and compare it with PyTorch."""
    from topolearn import export_onnx, load_model

    axes = () if dynamic in ("", "none") else tuple(axis.strip() for axis in dynamic.split(","))
    net = load_model(run_dir)
    report = export_onnx(net, output, precision=precision, dynamic=axes, provider=provider, check=not no_check)
    checked = "not compared with PyTorch"
    if report.errors:
        checked = f"differs from PyTorch by at most {max(report.errors.values()):.1g} on {report.provider}"
    print(f"{output}: {report.size:,} bytes, {report.nodes} nodes, {checked}")


def bench(
    run_dir: RunFolder,
    provider: Provider = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Inputs per call.")] = 1,
) -> None:
    """Time a run's network in ONNX Runtime against the graph that was searched, with all its edges."""
    from topolearn.cli import print_table
    from topolearn.report.run import comparison, time_run
    from topolearn.training import read_result

    if not os.path.isdir(run_dir):
        raise CheckpointError(f"there is no folder {run_dir}; name the folder of a finished run")
    result = read_result(run_dir)
    print_table(comparison(result, times=time_run(result, provider=provider, batch=batch)))
