"""The commands that need torch: fit, shrink, compare, prune, export, bench. They import it when they run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topolearn.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from topolearn.runs import FitResult

RunFolder = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")]
Provider = Annotated[str, typer.Option(help="Execution provider of ONNX Runtime: cpu, cuda or tensorrt.")]


Log = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also log to mlflow, wandb (Weights & Biases) or tensorboard; may be repeated."),
]


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    for command in (fit, shrink, compare, prune, export, bench):
        app.command()(command)


def fit(
    graph: Annotated[str, typer.Argument(metavar="GRAPH|RECIPE", help="A graph or a recipe: its name or YAML file.")],
    learner: Annotated[
        str | None, typer.Option(help="maskconnect, continuous, ablation … (`topolearn list learners`).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Name of a data set, a folder of images, a text file, or a folder of .txt files.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs, over all phases.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images or contexts per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the weights.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for everything random.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:1 …")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Weights to start from: a file or the folder of a run.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,M",
            help="Mean of each channel for normalising images, for pixels from 0 to 1. Default: as the given weights"
            " were trained, else the mean of the data.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel, like --mean.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="N|H,W", help="Height and width of the images; default: the graph's.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/GRAPH-LEARNER.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder of --out.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the learner (fan_in=3) or of training (schedule=step, phases.fine_tune=0.2,"
            " phases.fine_tune.lr=0.1),"
            " or a value of the graph file (nodes.head.classes=10).",
        ),
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Write no ONNX file and no pictures.")] = False,
    log: Log = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Learn which edges of a graph to keep, prune the rest, train what is left, export it to ONNX."""
    from topolearn import fit as run
    from topolearn.cli.common import overrides, sides
    from topolearn.distributed import is_main
    from topolearn.files import file_name
    from topolearn.loggers import make_logger
    from topolearn.recipes import load_recipe

    loggers = [make_logger(name) for name in log or ()]
    changes = overrides(settings)
    if learner is not None:
        changes["learner"] = learner
    changes |= {key: f"[{text}]" for key, text in (("mean", mean), ("std", std)) if text is not None}
    recipe = load_recipe(graph, changes)
    if size is not None:
        height, width = sides(size)
        for name in recipe.searched.image_inputs:
            changes[f"inputs.{name}"] = f"[{recipe.searched.input_size(name)[0]}, {height}, {width}]"
        recipe = load_recipe(graph, changes)
    folder = out if out is not None else Path("runs") / file_name(str(recipe.name))
    result = run(
        recipe,
        data=data,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        precision=precision,
        device=device,
        weights=weights,
        data_root=data_root,
        out=folder,
        callbacks=loggers,
        resume=resume,
        export=not no_export,
        quiet=quiet,
    )
    if is_main():  # only one of several processes prints
        _close(result, folder)


def shrink(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network of torchvision (resnet50 …), or timm:NAME.")],
    weights: Annotated[
        str, typer.Option(help="Its trained weights: a file, or the name of torchvision's (DEFAULT, IMAGENET1K_V2 …).")
    ],
    data: Annotated[str, typer.Option(help="Name of a data set, or a folder of images.")],
    budget: Annotated[
        str,
        typer.Option(
            metavar="KIND=SHARE",
            help="What the result may cost, as a share of the network's: macs=0.6, params=0.6 or milliseconds=0.6.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    learner: Annotated[
        str, typer.Option(help="What decides which blocks go: ablation, taylor, similarity, continuous, random_blocks.")
    ] = "ablation",
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs, over all phases.")] = 10,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.01,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|H,W", help="Height and width of the images; default: a built-in set's own, else 224."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="M,M,M", help="Mean of each channel in the network's training, for pixels 0 to 1."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel, like --mean.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for everything random.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:1 …")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder of --out.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the learner (batches=20) or of training (schedule=step)."
        ),
    ] = None,
    no_export: Annotated[bool, typer.Option("--no-export", help="Write no ONNX file and no pictures.")] = False,
    log: Log = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Make a trained network smaller: remove the blocks that it misses least, fine-tune, export to ONNX.

    If the data have another number of classes than the weights, the network gets a new last layer. A learner that
    scores first trains the whole network for half of the epochs.
    """
    from topolearn import shrink as run
    from topolearn.cli.common import overrides, sides
    from topolearn.distributed import is_main
    from topolearn.loggers import make_logger
    from topolearn.recipes.recipe_file import settings_of

    loggers = [make_logger(name) for name in log or ()]
    changes = overrides(settings)
    changes |= {f"budget.{kind}": share for kind, share in overrides([budget], "--budget", "macs=0.6").items()}
    changes |= {key: f"[{text}]" for key, text in (("mean", mean), ("std", std)) if text is not None}
    options, training = settings_of(learner, changes)
    result = run(
        model,
        data,
        weights=weights,
        learner=learner,
        size=None if size is None else sides(size),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        training=training,
        seed=seed,
        device=device,
        precision=precision,
        data_root=data_root,
        out=out,
        callbacks=loggers,
        resume=resume,
        export=not no_export,
        quiet=quiet,
        **options,
    )
    if is_main():  # only one of several processes prints
        _close(result, out)


def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE|GRAPH…", help="Recipes or graphs: their names or YAML files.")
    ],
    seeds: Annotated[str, typer.Option(help="Seeds to run every recipe with: 0,1,2 or 0..4.")] = "0,1,2",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Run every recipe with each of these values, such as fan_in=1,2,4..8 or"
            " learner=maskconnect,continuous. Give it several times to run every combination.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting for all runs, as in `topolearn fit`. A learner's option applies to the learners that have"
            " it.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every run, instead of the recipe's.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the runs (NAME/seed-S) and the table (compare.md, compare.csv).")
    ] = Path("runs/compare"),
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of runs at a time, each in its own process. They share the CPU's threads, and take the GPUs"
            " in turn. Default: one per GPU, or one without a GPU.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto (all GPUs, else the CPU), cpu, cuda:1 …")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    log: Log = None,
    launcher: Annotated[
        str, typer.Option(help="Where the runs are: processes on this machine, or jobs of slurm.")
    ] = "processes",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="With --launcher slurm: an option of sbatch by its long name, such as time=4:00:00 (which is needed),"
            " partition=gpu, gpus=1, cpus=4, memory=32G.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Train several recipes with several seeds, and print one table: metrics, size before and after, time.

    Metrics are mean and standard deviation. All recipes are checked before the first run starts.
    Give the same command again to resume interrupted or failed runs; finished runs are not repeated.
    Exit status 1 if a run failed.
    """
    from topolearn import compare as run
    from topolearn.cli.common import complain, overrides, print_table, say
    from topolearn.studies.compare import values
    from topolearn.studies.comparison import CSV, MARKDOWN

    if launcher not in ("processes", "slurm"):
        raise OptionError(f"--launcher {launcher}: write processes or slurm")
    if slurm and launcher != "slurm":
        raise OptionError("--slurm is for jobs of Slurm; give --launcher slurm too")
    numbers = values(seeds, f"--seeds {seeds}")
    if not all(number.isdecimal() for number in numbers):
        raise OptionError(f"--seeds {seeds}: seeds are whole numbers, such as 0,1,2 or 0..4")
    varied = {key: values(text, f"--vary {key}={text}") for key, text in overrides(vary, "--vary").items()}
    comparison = run(
        recipes,
        seeds=[int(number) for number in numbers],
        vary=varied,
        settings=overrides(settings),
        epochs=epochs,
        out=out,
        jobs=jobs,
        device=device,
        data_root=data_root,
        log=log or (),
        slurm=overrides(slurm, "--slurm", "partition=gpu") if launcher == "slurm" else None,
        quiet=quiet,
    )
    print_table(comparison.table())
    say(f"{out}: {MARKDOWN}, {CSV}")
    for failure in comparison.failures:
        complain(str(failure))
    if comparison.failures:
        raise typer.Exit(1)


def _close(result: FitResult, folder: Path) -> None:
    """Print the closing table, with times if the network has just been exported, and the files in the folder."""
    from topolearn.cli.common import print_table, say
    from topolearn.runs.delivery import MATRIX, PICTURE, time_run

    report = result.exported
    print_table(result.table(None if report is None else time_run(result, model=report.path)))
    if report is not None:
        worst = max(report.errors.values())
        say(f"{report.path}: {report.size:,} bytes; ONNX Runtime differs from PyTorch by at most {worst:.1g}")
    for name, what in ((PICTURE, "the learned graph"), (MATRIX, "the learner's value of every edge")):
        if (folder / name).is_file():
            say(f"{folder / name}: {what}")
    say(f"{folder}: graph.yaml, weights.safetensors, history.jsonl, config.yaml")


def prune(
    run_dir: RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: RUN_DIR-pruned, or RUN_DIR itself with --sweep.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change an option of the learner: fan_in=2, threshold=0.1 …"),
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            help="Write no model. Remove more and more edges, by magnitude and at random, and write the accuracy at"
            " each share as a table and a picture.",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Data to measure on: a data set, folder or text file; default: the run's own data."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to measure: auto, cpu, cuda, cuda:1 …")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress of --sweep.")] = False,
) -> None:
    """Prune a run's searched network again, with other options of its learner, without training."""
    from topolearn.cli.common import overrides, print_table, say

    if sweep:
        from topolearn.studies.sweep import CSV, MARKDOWN, PICTURE
        from topolearn.studies.sweep import sweep as measure

        target = out if out is not None else run_dir
        changes = overrides(settings)
        found = measure(run_dir, target, settings=changes, data=data, data_root=data_root, device=device, quiet=quiet)
        print_table(found.table())
        say(f"{target}: {MARKDOWN}, {CSV}, {PICTURE}")
        return
    from topolearn.runs.delivery import draw_run
    from topolearn.studies.reprune import reprune

    target = out if out is not None else run_dir.with_name(f"{run_dir.resolve().name}-pruned")
    result = reprune(run_dir, target, overrides(settings), data_root, device, data=data)
    picture, matrix = draw_run(result, target)
    print_table(result.table())
    say(f"{picture}: the learned graph")
    say(f"{matrix}: the learner's value of every edge")
    say(f"{target}: graph.yaml, weights.safetensors, history.jsonl, config.yaml")


def export(
    run_dir: RunFolder,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The file: NAME.onnx, NAME.pt2 or NAME.py.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="onnx; pt2, an archive of torch.export; or torch, readable source code that needs PyTorch only, with"
            " its weights beside it. Default: by the file's suffix, else onnx.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 or float16, for ONNX. Default: float32.", show_default=False)
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            help="Axes of variable size, of batch,height,width,length, or none. Default: batch; also height and width"
            " if every pixel is classified, and length (tokens) if all inputs are sequences. Source code takes every"
            " size that the graph takes.",
            show_default=False,
        ),
    ] = None,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="For segmentation in ONNX: output the class of every pixel, not logits.")
    ] = False,
    provider: Annotated[
        str | None,
        typer.Option(
            help="Execution provider of ONNX Runtime that runs the check: cpu, cuda or tensorrt. Default: cpu.",
            show_default=False,
        ),
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare the file with the network.")] = False,
) -> None:
    """Export the network of a run to ONNX, to a .pt2 archive or to PyTorch source, and compare it with the network."""
    from topolearn import load_model
    from topolearn.cli.common import say
    from topolearn.files import check_target
    from topolearn.onnx import ExportReport
    from topolearn.runs.exports import export as run
    from topolearn.runs.exports import format_of
    from topolearn.runs.folder import FILES

    check_target(output, (run_dir / name for name in FILES))
    kind = format_of(output, format)
    weights = output.with_suffix(".safetensors")
    if kind == "torch":
        check_target(weights, (run_dir / name for name in FILES))
    if argmax and kind != "onnx":
        raise OptionError(f"--argmax is for ONNX files, not for the format {kind}; leave it out")
    given = {"precision": precision, "output": "argmax" if argmax else None, "provider": provider}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if dynamic is not None:
        axes = dynamic.split(",") if dynamic not in ("", "none") else ()
        options["dynamic"] = tuple(axis.strip() for axis in axes)
    if no_check:
        options["check"] = False
    report = run(load_model(run_dir), output, kind, **options)
    what = f"{report.size:,} bytes"
    if isinstance(report, ExportReport):
        what, where = f"{what}, {report.nodes} nodes", f"PyTorch by at most {{:.1g}} on {report.provider}"
    else:
        where = "the network by at most {:.1g}, in a process of its own"
    checked = f"differs from {where.format(max(report.errors.values()))}" if report.errors else "not compared"
    say(f"{output}: {what}, {checked}")
    if kind == "torch":
        say(f"{weights}: its weights")


def bench(
    run_dir: RunFolder,
    provider: Provider = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Inputs per call.")] = 1,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="For segmentation: output the class of every pixel, not logits.")
    ] = False,
) -> None:
    """Time a run's network in ONNX Runtime against the searched graph with all its edges."""
    from topolearn.cli.common import print_table
    from topolearn.runs import read_result
    from topolearn.runs.delivery import time_run

    if not os.path.isdir(run_dir):
        raise CheckpointError(f"there is no folder {run_dir}; name the folder of a finished run")
    result = read_result(run_dir)
    times = time_run(result, provider=provider, batch=batch, output="argmax" if argmax else "logits")
    print_table(result.table(times))
