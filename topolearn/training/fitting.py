"""``fit``: from a graph to a trained, pruned network."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topolearn.compiler import Network, load_pretrained
from topolearn.compiler import compile as build
from topolearn.compiler.finite import not_finite
from topolearn.distributed import World, world_of
from topolearn.errors import CheckpointError, ExportError, Location, TrainingError
from topolearn.graph import Graph, one_level_params
from topolearn.learners import EdgeLearner
from topolearn.recipes import Recipe, RecipeFile, TrainOptions
from topolearn.runs import FitResult, read_result
from topolearn.runs.config import about_data
from topolearn.runs.delivery import MODEL, deliver
from topolearn.runs.folder import WEIGHTS, claimed, holds_run
from topolearn.runs.result import closing_record
from topolearn.runs.run_writer import RunWriter
from topolearn.runs.tensor_files import load_into, load_tensors, plain_names
from topolearn.samples.seeds import global_state_kept
from topolearn.tasks import Loss, Metric
from topolearn.training.callbacks import Callback, begun, with_tensorboard
from topolearn.training.capture import check_capture
from topolearn.training.given import is_trained
from topolearn.training.memory import kept_memory
from topolearn.training.prepare import Prepared, prepare
from topolearn.training.progress import Reporter
from topolearn.training.trainer import Trainer


def fit(
    graph: str | Path | Graph | nn.Module | RecipeFile,
    learner: str | Mapping[str, Any] | EdgeLearner | None = None,
    data: Any = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
    callbacks: Sequence[Callback] = (),
    weights: str | Path | None = None,
    seed: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    training: Mapping[str, Any] | TrainOptions | None = None,
    data_root: str | Path | None = None,
    export: bool = True,
    quiet: bool = False,
    **learner_options: Any,
) -> FitResult:
    """Learn which edges of a graph to keep, prune the rest, and train what is left.

    Several processes train together if a launcher (torchrun) or your program has put them into a process group;
    see :mod:`topolearn.distributed`.

    Args:
        graph: Name or path of a graph or recipe, a Graph, or a network to start from, with its weights.
        learner: Name of a learner, a mapping of ``name`` and options as in a recipe, or a learner made for this
            graph. Default: the recipe's, else ``maskconnect``.
        data: Name of a data set, a folder, a text file, or a ``(train, val)`` pair of Datasets, of DataLoaders or of
            token ids. For a graph that takes something else than one image, items are (inputs, targets), with
            several inputs in a dict by name. Default: the data set that the graph names, else ``digits``, or
            ``python-source`` for text.
        epochs: Epochs in all phases together; the learner's plan divides them.
        batch_size: Images or contexts per step, over all processes.
        lr: Peak learning rate of the weights.
        loss: Function of (outputs, targets), each a tensor or a dict, as the network and the data give them. The
            default depends on the task, see :mod:`topolearn.tasks`.
        metrics: Name -> ``torchmetrics.Metric`` or function of (outputs, targets). The default depends on the task,
            see :mod:`topolearn.tasks`.
        callbacks: Functions called with each record of the history, or loggers: see :mod:`topolearn.loggers`.
        weights: safetensors file, or the folder of a run, to start from. A phase that starts from fresh weights
            starts from these again, without those of removed parts.
        seed: Seed of everything random, default 0. Equal seeds give equal results.
        device: ``auto`` is CUDA if there is a GPU. If several processes train, each takes its own GPU.
        precision: ``float32``, ``bfloat16`` (autocast), ``auto``.
        out: Folder of the run. No other run may train in it at the same time. None writes nothing.
        resume: Continue the run in ``out``. If there is no run yet, start it. If it is finished, return its result, and
            export it if there is no ONNX file yet.
        training: Options of :class:`topolearn.recipes.TrainOptions`.
        data_root: Folder that is searched first for data sets.
        export: Whether ``out`` also gets model.onnx, compared with PyTorch, and the pictures graph.svg and matrix.svg.
            A network that cannot be exported gives a warning, and the run is kept.
        quiet: Show no progress.
        learner_options: Options of the learner.

    Returns:
        The learned graph, the trained model, the history and the metrics.

    Raises:
        TopolearnError: One of its subclasses, for input that cannot be used.
        KeyboardInterrupt: After Ctrl-C, with a checkpoint in ``out``.
    """
    recipe = Recipe.of(
        graph,
        learner,
        data,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        loss=loss,
        metrics=metrics,
        callbacks=callbacks,
        weights=weights,
        seed=seed,
        device=device,
        precision=precision,
        out=out,
        resume=resume,
        training=training,
        data_root=data_root,
        export=export,
        quiet=quiet,
        learner_options=learner_options,
    )
    with world_of(recipe.device) as (world, device), contextlib.ExitStack() as claim:
        ready = prepare(recipe.changed(device=device))
        check_capture(ready.options, ready.device, world.size, ready.learner if ready.searches else None)
        if recipe.out is not None:
            folder = recipe.out
            world.from_main(lambda: claim.enter_context(claimed(folder)))
            if world.from_main(ready.is_finished):
                _say(f"the run in {folder} is already finished", recipe, world)
                result = read_result(folder)
                if not (folder / MODEL).is_file():  # it was stopped after training, or is wanted now
                    _deliver(result, recipe, world, stacklevel=3)
                return result
        with _surroundings(ready):
            return _train(ready, world, graph)


def _train(ready: Prepared, world: World, given: object) -> FitResult:
    """Train a prepared run, from the start or from the checkpoint in its folder."""
    recipe, learner = ready.recipe, ready.learner
    writer = RunWriter(recipe.out if world.is_main else None)
    checkpoint = world.from_main(writer.checkpoint_left)
    if recipe.resume and checkpoint is None:
        _say(f"nothing to resume in {recipe.out}; starting from the beginning", recipe, world)
    net = _network(ready)
    if checkpoint is None:  # a checkpoint holds all weights
        _load_start(net, recipe)
        _check_start(net, recipe)
    world.share_state(net)
    trained = checkpoint is None and is_trained(net, ready.about, recipe, ready.data.info)
    if learner.scores_blocks and checkpoint is None and not trained and not ready.searches:
        warnings.warn(
            "the network that is scored is not trained for these data, so the scores say little; give trained weights,"
            " or train it first: set 'phases.adapt' to 0.5",
            stacklevel=4,
        )
    trainer = Trainer(
        ready=ready,
        net=net,
        data=world.divide(ready.data, recipe.batch_size).to(ready.device),
        writer=writer,
        world=world,
        start=_weights_of(net) if checkpoint is None and _starts_over(ready) else None,
    )
    advice = (*_unused_weights(recipe, given), *_other_optimizer(recipe)) if checkpoint is None else ()
    for note in (*ready.data.notes, *advice) if world.is_main else ():
        Reporter(0).say(note)  # even if quiet: this is not progress. `say` removes control characters of file names
    folder = recipe.out
    if folder is None or not world.from_main(lambda: holds_run(folder)):
        world.from_main(learner.check)
        world.share(learner.buffers())  # which `check` measured in process 0
    if checkpoint is not None:
        trainer.restore(checkpoint)
    elif trained:  # before the first file: a network that is refused leaves no run behind
        trainer.judge_given(ready.about)
    trainer.callbacks = with_tensorboard(trainer.callbacks, writer.folder)
    with begun(trainer.callbacks, world, ready.config, writer.folder, tuple(trainer.history)) as end:
        if checkpoint is None:
            world.from_main(lambda: writer.begin(ready.graph, ready.config))
        result = _result(ready, trainer, trainer.run())
        result.history.append(closing_record(result))
        world.from_main(lambda: writer.finish(result))
        end(result)
    _deliver(result, recipe, world, stacklevel=4)
    return result


def _result(ready: Prepared, trainer: Trainer, metrics: dict[str, float]) -> FitResult:
    """Return the result of a run that has been trained."""
    trainer.net.about = about_data(ready.config)
    learner = ready.learner
    return FitResult(
        graph=trainer.net.graph,
        model=trainer.net.eval(),
        searched=ready.graph,
        learner=learner,
        history=trainer.history,
        metrics=metrics,
        per_class=trainer.per_class,
        notes=tuple(ready.data.notes),
        searched_metrics=trainer.searched_metrics,
        given_metrics=trainer.given_metrics,
        removed_metrics=trainer.removed_metrics,
        one_level_params=one_level_params(ready.graph, learner.topology()),
        info=ready.data.info,
        spent=learner.spent(),
        folder=ready.recipe.out,
        config=ready.config,
    )


def _deliver(result: FitResult, recipe: Recipe, world: World, stacklevel: int) -> None:
    """Export the network and draw pictures, if the recipe asks for it."""
    if recipe.out is None or not recipe.export or not world.is_main:
        return
    _say("exporting to ONNX, comparing with PyTorch", recipe, world)
    try:
        result.exported = deliver(result, recipe.out)
    except ExportError as error:
        warnings.warn(f"the network was not exported: {error}", stacklevel=stacklevel)


def _say(text: str, recipe: Recipe, world: World) -> None:
    """Print a line of progress, once for all processes."""
    Reporter(0, quiet=recipe.quiet or not world.is_main).say(text)


def _network(ready: Prepared) -> Network:
    """Return the network to search, with the weights of the given network or random ones."""
    recipe = ready.recipe
    torch.manual_seed(recipe.seed)
    return build(ready.graph if recipe.start is None else recipe.start, ready.learner).to(ready.device).float()


def _load_start(net: Network, recipe: Recipe) -> None:
    """Load the start weights if they come from a file: the given ones, else pretrained ones."""
    if recipe.weights is not None:
        _load_weights(net, recipe.weights)
    elif recipe.start is None:
        load_pretrained(net)


def _unused_weights(recipe: Recipe, given: object) -> tuple[str, ...]:
    """Return a note if a file of weights, as ``lift`` writes it, lies unused beside the file of the graph."""
    file = given.graph if isinstance(given, RecipeFile) else given
    if recipe.weights is not None or not isinstance(file, str | Path) or not Path(file).is_file():
        return ()
    beside = Path(file).with_suffix(".safetensors")
    if not beside.is_file():
        return ()
    return (f"{beside} lies beside the graph and is not used; to start from these weights, give --weights {beside}",)


def _other_optimizer(recipe: Recipe) -> tuple[str, ...]:
    """Return a note if transformer blocks are trained with the default optimiser, SGD, and nobody chose it."""
    chosen = "optimizer" in recipe.training.model_fields_set or recipe.training.optimizer != "sgd"
    if chosen or not any(node.op.startswith("transformer.") for node in recipe.graph.nodes.values()):
        return ()
    return (
        "transformer blocks usually learn better with AdamW than with SGD, the default; set lr=2e-3, optimizer=adamw,"
        " weight_decay=0.05, decay=matrices, warmup_epochs=1 and clip_grad_norm=1, or set optimizer=sgd to keep it",
    )


def _check_start(net: Network, recipe: Recipe) -> None:
    """Raise a TrainingError if a start weight is NaN or infinite."""
    name = not_finite(net)
    if name is not None:
        raise TrainingError(
            f"'{name}' holds values that are NaN or infinite; start from other weights",
            None if recipe.weights is None else Location(str(recipe.weights)),
        )


def _starts_over(ready: Prepared) -> bool:
    """Whether a later phase starts again from the weights that the run was given."""
    given = ready.recipe.start is not None or ready.recipe.weights is not None
    return given and any(item.phase.weights == "fresh" for item in ready.plan)


def _weights_of(net: Network) -> dict[str, torch.Tensor]:
    """Copy the parameters and buffers of a network, without its learner's."""
    return {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("learner.")}


def _load_weights(net: Network, path: Path) -> None:
    """Load start weights from a file or the folder of a run; the learner keeps its initial state."""
    file = path / WEIGHTS if path.is_dir() else path
    tensors = plain_names(load_tensors(file))
    learner = {f"learner.{name}": value for name, value in net.learner.state_dict().items()} if net.learner else {}
    plain = {name: value for name, value in tensors.items() if not name.startswith("learner.")}
    _check_classes(net, plain, file)
    load_into(net, plain | learner, file)


def _check_classes(net: Network, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Raise a CheckpointError if the weights of an output are for another number of classes."""
    for name, tensor in net.state_dict().items():
        node = name.removeprefix("nodes.").partition(".")[0]
        if node not in net.graph.outputs or name not in tensors or not hasattr(net.graph.nodes[node].rule, "classes"):
            continue
        theirs, ours = tensors[name].shape, tensor.shape
        if theirs[:1] != ours[:1] and theirs[1:] == ours[1:]:
            raise CheckpointError(
                f"'{name}' is for {theirs[0]} classes, but the graph is for {ours[0]}; set 'nodes.{node}.classes' to"
                f" {theirs[0]}, or lift the network with --classes {ours[0]}, which gives it a new last layer",
                Location(str(file)),
            )


@contextlib.contextmanager
def _surroundings(ready: Prepared) -> Iterator[None]:
    """Set what a run changes in its process, and restore it on exit: cuDNN, random generators, memory."""
    before = torch.backends.cudnn.deterministic
    on_cpu = ready.device.type == "cpu"
    with global_state_kept(), kept_memory() if on_cpu else contextlib.nullcontext():
        torch.backends.cudnn.deterministic = ready.options.deterministic
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = before
