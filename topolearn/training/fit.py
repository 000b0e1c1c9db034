"""``fit``: from a graph to a trained, pruned network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topolearn.compiler import Network, load_pretrained
from topolearn.compiler import compile as build
from topolearn.data import DataInfo
from topolearn.data.seeds import global_state_kept
from topolearn.distributed import World, world_of
from topolearn.errors import CheckpointError, Location, OptionError, TopolearnError, shown
from topolearn.files import make_folder, write_atomically
from topolearn.format import dumps
from topolearn.graph import Graph, one_level_params
from topolearn.learners import EdgeLearner
from topolearn.recipes.train_options import TrainOptions
from topolearn.runs import folder as checkpoint
from topolearn.runs.config import about_data, write_config
from topolearn.runs.result import FitResult, closing_record, read_result
from topolearn.tasks.evaluation import Loss, Metric, check_functions, check_outputs, default_loss, default_metrics
from topolearn.training.capture import check_capture
from topolearn.training.memory import kept_memory
from topolearn.training.prepare import Prepared, prepare
from topolearn.training.progress import Reporter
from topolearn.training.trainer import Callback, Trainer, total_steps


def fit(
    graph: str | Path | Graph | nn.Module,
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
    quiet: bool = False,
    **learner_options: Any,
) -> FitResult:
    """Learn which edges of a graph to keep, prune the rest, and train what is left.

    Several processes train together where a launcher (torchrun) or the program has made them a group;
    see :mod:`topolearn.distributed`.

    Args:
        graph: Name or path of a graph or recipe, a Graph, or a network whose weights to start from.
        learner: Name of a learner (``maskconnect`` where neither this nor a recipe says), a mapping of
            ``name`` and options as in a recipe, or one made for this graph.
        data: Name of a data set, a folder, or a ``(train, val)`` pair of Datasets or DataLoaders;
            default: what the graph names, else ``digits``.
        epochs: In all phases together; the learner's plan deals them out.
        batch_size: Images per step, over all processes.
        lr: Peak learning rate of the weights.
        loss: Function of (outputs, targets); default by task, see
            :func:`topolearn.tasks.losses.default_loss`.
        metrics: By name: ``torchmetrics.Metric`` or function of (outputs, targets); default by task,
            see :func:`topolearn.tasks.evaluation.default_metrics`.
        callbacks: Called with every record of the history.
        weights: safetensors file, or the folder of a run, to start from. A phase that trains anew starts from them
            once more, as far as the pruned network still has what they are for.
        seed: Of everything random, 0 where not given; equal seeds give equal results.
        device: ``auto`` is CUDA where there is one; of several processes each takes a GPU of its own.
        precision: ``float32``, ``bfloat16`` (autocast), ``auto``.
        out: Folder of the run, which no other may train in meanwhile; None writes nothing.
        resume: Go on with the run in ``out``; start it where there is none, return its result where
            it is finished.
        training: Options of :class:`topolearn.recipes.TrainOptions`.
        data_root: Where data sets are looked for first.
        quiet: Show no progress.
        learner_options: Options of the learner.

    Returns:
        The learned graph, the trained model, and how it went.

    Raises:
        TopolearnError: One of its subclasses, for input that cannot be used.
        KeyboardInterrupt: After Ctrl-C, with a checkpoint in ``out``.
    """
    if resume and out is None:
        raise OptionError("'resume' needs the folder of the run; give it as 'out'")
    check_functions(loss, metrics, callbacks)
    with world_of(device) as (world, own):
        ready = prepare(
            graph,
            learner,
            data,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            loss=loss,
            seed=seed,
            device=own,
            precision=precision,
            training=training,
            data_root=data_root,
            **learner_options,
        )
        searching = ready.learner if any(item.phase.search for item in ready.plan) else None
        check_capture(ready.options, ready.device, world.size, searching)
        folder = None if out is None else Path(out)
        with contextlib.ExitStack() as claim:
            if folder is not None:
                world.from_main(lambda: claim.enter_context(checkpoint.claimed(folder)))
                if world.from_main(lambda: ready.is_finished(folder, resume=resume)):
                    return read_result(folder)
            return _train(ready, world, folder, loss, metrics, callbacks, weights, quiet)


def _train(
    ready: Prepared,
    world: World,
    folder: Path | None,
    loss: Loss | None,
    metrics: Mapping[str, Metric] | None,
    callbacks: Sequence[Callback],
    weights: str | Path | None,
    quiet: bool,
) -> FitResult:
    """Train what is ready, from the start or from the checkpoint in ``folder``."""
    searched, edge_learner, options, where = ready.graph, ready.learner, ready.options, ready.device
    settings, info, quiet = ready.settings, ready.data.info, quiet or not world.is_main
    with _deterministic(options.deterministic), global_state_kept(), _memory(where):
        torch.manual_seed(settings.seed)
        net = build(searched if ready.start is None else ready.start, edge_learner).to(where).float()
        if weights is not None:
            _load_weights(net, weights)
        elif ready.start is None:
            load_pretrained(net)
        world.share_state(net)
        starts_anew = any(item.phase.weights == "fresh" for item in ready.plan)
        start = _weights_of(net) if starts_anew and (ready.start is not None or weights is not None) else None
        trainer = Trainer(
            net=net,
            learner=edge_learner,
            data=world.divide(ready.data, settings.batch_size).to(where),
            plan=ready.plan,
            options=options,
            batch_size=settings.batch_size,
            lr=settings.lr,
            seed=settings.seed,
            loss=loss or default_loss(info, options.label_smoothing),
            metrics=_metrics(searched, info) if metrics is None else metrics,
            precision=settings.precision,
            device=where,
            reporter=Reporter(0, quiet=quiet),
            callbacks=tuple(callbacks) if world.is_main else (),
            folder=folder if world.is_main else None,
            world=world,
            start=start,
        )
        for note in ready.data.notes if world.is_main else ():
            Reporter(0).say(note)  # quiet or not: this is no progress
        if folder is None or not world.from_main(lambda: checkpoint.holds_run(folder)):
            world.from_main(edge_learner.check)
            world.share(edge_learner.buffers())  # what the first process has measured
        if folder is not None:
            state = world.from_main(lambda: _begin_or_take_up(folder, searched, ready.config))
            if state is not None:
                trainer.restore(state)
        done = trainer.at.epochs * trainer.steps + trainer.at.step
        trainer.reporter = Reporter(total_steps(ready.plan, trainer.steps), done, quiet=quiet)
        with _tensorboard(trainer):
            final = trainer.run()
    trainer.net.about = about_data(ready.config)
    result = FitResult(
        graph=trainer.net.graph,
        model=trainer.net.eval(),
        searched=searched,
        learner=edge_learner,
        history=trainer.history,
        metrics=final,
        per_class=trainer.per_class,
        notes=tuple(ready.data.notes),
        searched_metrics=trainer.searched_metrics,
        one_level_params=one_level_params(searched, edge_learner.topology()),
        info=info,
        spent=edge_learner.spent(),
        folder=folder,
        config=ready.config,
    )
    result.history.append(closing_record(result))
    if folder is not None:
        world.from_main(lambda: _finish(folder, result))
    return result


def _finish(folder: Path, result: FitResult) -> None:
    """Write what a run leaves behind."""
    checkpoint.write_history(folder, result.history)
    result.save_model(folder)
    checkpoint.remove_state(folder)


def _metrics(graph: Graph, info: DataInfo) -> dict[str, Metric]:
    """The default metrics; none for what only a loss of the user's own can judge."""
    try:
        check_outputs(graph, info)
    except TopolearnError:
        return {}
    return default_metrics(info)


def _begin_or_take_up(folder: Path, graph: Graph, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Begin a run in its folder, or give the checkpoint to go on from."""
    if checkpoint.holds_run(folder):
        checkpoint.tidy(folder)
        state = checkpoint.load_state(folder)
        if state is not None:
            return state
    else:
        make_folder(folder)
        checkpoint.remove_state(folder)
        write_atomically(folder / checkpoint.SEARCHED, dumps(graph).encode())
        write_atomically(folder / checkpoint.CONFIG, write_config(config).encode())
    checkpoint.write_history(folder, [])
    return None


def _weights_of(net: Network) -> dict[str, torch.Tensor]:
    """A copy of a network's parameters and buffers, without its learner's."""
    return {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("learner.")}


def _load_weights(net: Network, weights: str | Path) -> None:
    """Start from the weights in a file or a run's folder; the learner keeps its own start."""
    if not isinstance(weights, str | Path):
        raise OptionError(f"'weights' is a safetensors file or the folder of a run, not {shown(weights)}")
    path = Path(weights)
    file = path / checkpoint.WEIGHTS if path.is_dir() else path
    tensors = checkpoint.load_tensors(file)
    learner = {f"learner.{name}": value for name, value in net.learner.state_dict().items()} if net.learner else {}
    plain = {name: value for name, value in tensors.items() if not name.startswith("learner.")}
    _check_classes(net, plain, file)
    checkpoint.load_into(net, plain | learner, file)


def _check_classes(net: Network, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Raise where an output's weights are those of a network for another number of classes."""
    for name, tensor in net.state_dict().items():
        node = name.removeprefix("nodes.").partition(".")[0]
        if node not in net.graph.outputs or name not in tensors or not hasattr(net.graph.nodes[node].rule, "classes"):
            continue
        theirs, ours = tensors[name].shape, tensor.shape
        if theirs[:1] != ours[:1] and theirs[1:] == ours[1:]:
            raise CheckpointError(
                f"'{name}' is for {theirs[0]} classes, but the graph is for {ours[0]}; set 'nodes.{node}.classes' to"
                f" {theirs[0]}, or lift the network with --classes {ours[0]}, which starts its last layer anew",
                Location(str(file)),
            )


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic cuDNN convolutions while entered."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _memory(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Where a run is on the CPU, memory that it frees stays at hand."""
    return kept_memory() if device.type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def _tensorboard(trainer: Trainer) -> Iterator[None]:
    """Write the history to TensorBoard too, where that is installed and the run has a folder."""
    if trainer.folder is None:
        yield
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield
        return
    writer = SummaryWriter(str(trainer.folder / "tensorboard"))

    def write(record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float):
                writer.add_scalar(f"{record['phase']}/{name}", value, trainer.at.epochs)

    trainer.callbacks = (*trainer.callbacks, write)
    try:
        yield
    finally:
        writer.close()
