"""``fit``: from a graph to a trained, pruned network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import topolearn
from topolearn.compiler import Network
from topolearn.compiler import compile as build
from topolearn.errors import CheckpointError, OptionError, TopolearnError, shown
from topolearn.format import dumps, load_graph, write_atomically
from topolearn.format.tree import parse
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, learner_class, make_learner
from topolearn.ops import Shape
from topolearn.options import validate
from topolearn.training import checkpoint
from topolearn.training.artefacts import about_data, read_config, write_config
from topolearn.training.config import (
    BUDGETS,
    OTHER,
    Settings,
    compare_config,
    is_recipe,
    open_recipe,
    read_recipe,
    recipe_graph,
)
from topolearn.training.data import Augment, Data, DataInfo, load_data
from topolearn.training.data.seeds import global_state_kept
from topolearn.training.metrics import (
    Loss,
    Metric,
    check_fits,
    check_functions,
    check_outputs,
    default_loss,
    default_metrics,
)
from topolearn.training.options import TrainOptions
from topolearn.training.phases import schedule
from topolearn.training.progress import Reporter
from topolearn.training.result import FitResult, read_result
from topolearn.training.trainer import Callback, Trainer, total_steps


def fit(
    graph: str | Path | Graph | nn.Module,
    learner: str | EdgeLearner | None = None,
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

    Args:
        graph: Name or path of a graph or recipe, a Graph, or a network whose weights to start from.
        learner: Name of a learner (``maskconnect`` where neither this nor a recipe says), or one made
            for this graph.
        data: Name of a data set, a folder, or a ``(train, val)`` pair of Datasets or DataLoaders;
            default: what the graph names, else ``digits``.
        epochs: In all phases together; the learner's plan deals them out.
        batch_size: Images per step.
        lr: Peak learning rate of the weights.
        loss: Function of (outputs, targets); default: cross entropy.
        metrics: By name: ``torchmetrics.Metric`` or function of (outputs, targets); default: accuracy,
            for segmentation also mean IoU.
        callbacks: Called with every record of the history.
        weights: safetensors file, or the folder of a run, to start from.
        seed: Of everything random, 0 where not given; equal seeds give equal results.
        device: ``auto`` is CUDA where there is one.
        precision: ``float32``, ``bfloat16`` (autocast), ``auto``.
        out: Folder of the run; None writes nothing.
        resume: Go on with the run in ``out``; start it where there is none, return its result where
            it is finished.
        training: Options of :class:`topolearn.training.TrainOptions`.
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
    request = _Request(graph, learner, learner_options, training)
    searched, options = request.graph, request.options
    chosen_data = _first(data, request.recipe and request.recipe.data, searched.data, "digits")
    settings = request.settings(chosen_data, epochs, batch_size, lr, seed, precision)
    where = _device(device)
    edge_learner = request.make_learner(settings.seed)
    plan = schedule(edge_learner, settings.epochs, options.phases)
    source = _load_data(searched, chosen_data, data_root, options)
    check_fits(searched, source.info)
    if loss is None:
        check_outputs(searched, source.info)
    exact_precision = _precision(settings.precision, where)
    length = settings.model_dump() | {"precision": exact_precision}
    config = _config(searched, length, edge_learner, source.info, options)

    folder = None if out is None else Path(out)
    if folder is not None and _holds_run(folder, searched, config, resume) and checkpoint.is_finished(folder):
        return read_result(folder)
    with _deterministic(options.deterministic), global_state_kept():
        torch.manual_seed(settings.seed)
        net = build(searched if request.start is None else request.start, edge_learner).to(where).float()
        if weights is not None:
            _load_weights(net, weights)
        trainer = Trainer(
            net=net,
            learner=edge_learner,
            data=source.to(where),
            plan=plan,
            options=options,
            batch_size=settings.batch_size,
            lr=settings.lr,
            seed=settings.seed,
            loss=loss or default_loss(source.info, options.label_smoothing),
            metrics=_metrics(searched, source.info) if metrics is None else metrics,
            precision=exact_precision,
            device=where,
            reporter=Reporter(0, quiet=quiet),
            callbacks=tuple(callbacks),
            folder=folder,
        )
        if folder is not None:
            _begin_or_take_up(folder, trainer, searched, config)
        done = trainer.at.epochs * trainer.steps + trainer.at.step
        trainer.reporter = Reporter(total_steps(plan, trainer.steps), done, quiet=quiet)
        with _tensorboard(folder, trainer):
            final = trainer.run()
    trainer.net.about = about_data(config)
    result = FitResult(
        graph=trainer.net.graph,
        model=trainer.net.eval(),
        searched=searched,
        learner=edge_learner,
        history=trainer.history,
        metrics=final,
        searched_metrics=trainer.searched_metrics,
        info=source.info,
        folder=folder,
        config=config,
    )
    closing = {"phase": "result", "metrics": final, "searched_metrics": trainer.searched_metrics}
    result.history.append(closing)
    if folder is not None:
        checkpoint.write_history(folder, result.history)
        result.save_model(folder)
        checkpoint.remove_state(folder)
    return result


class _Request:
    """What the caller asked for: graph, start, recipe, learner and options, from whichever form they came in."""

    def __init__(
        self,
        graph: str | Path | Graph | nn.Module,
        learner: str | EdgeLearner | None,
        learner_options: Mapping[str, Any],
        training: Mapping[str, Any] | TrainOptions | None,
    ) -> None:
        self.recipe = None
        self.start: Network | None = None
        if isinstance(graph, Graph):
            self.graph = graph.verify()
        elif isinstance(graph, Network):
            self.start, self.graph = graph, graph.graph
        elif not isinstance(graph, str | Path):
            raise OptionError(
                f"fit takes a graph, the name or path of one, or a network made from one, not a {type(graph).__name__};"
                " compile a graph first"
            )
        else:
            document = open_recipe(graph)
            if is_recipe(document):
                self.recipe = read_recipe(document)
                self.graph = recipe_graph(self.recipe, document.file)
            else:
                self.graph = load_graph(graph)
        options: dict[str, Any] = {}
        name = "maskconnect"
        if self.recipe is not None:
            name, options = self.recipe.learner_and_options()
        if not isinstance(learner, str | EdgeLearner | None):
            raise OptionError(f"a learner is given by name, or made for the graph, but this is {shown(learner)}")
        if learner is not None and learner != name:
            # Another learner than the recipe's: its options mean nothing to it.
            options = {}
        self.learner: str | EdgeLearner = name if learner is None else learner
        self.learner_options = options | dict(learner_options)
        if isinstance(training, TrainOptions):
            self.options = training
        elif training is not None and not isinstance(training, Mapping):
            raise OptionError(f"'training' is a mapping of options, as {{'schedule': 'step'}}, not {shown(training)}")
        else:
            merged = {**(self.recipe.training if self.recipe else {}), **(training or {})}
            self.options = validate(TrainOptions, merged, "training")

    def settings(
        self,
        data: Any,
        epochs: int | None,
        batch_size: int | None,
        lr: float | None,
        seed: int | None,
        precision: str,
    ) -> Settings:
        """Length, seed and precision: as given, else the recipe's, else what is usual for ``data``."""
        recipe = self.recipe
        budget = BUDGETS.get(data, OTHER) if isinstance(data, str) else OTHER
        chosen = {
            "epochs": _first(epochs, recipe and recipe.epochs, budget.epochs),
            "batch_size": _first(batch_size, recipe and recipe.batch_size, budget.batch_size),
            "lr": _first(lr, recipe and recipe.lr, budget.lr),
            "seed": _first(seed, recipe and recipe.seed, 0),
            "precision": recipe.precision if recipe and precision == "auto" else precision,
        }
        return validate(Settings, chosen, "fit")

    def make_learner(self, seed: int) -> EdgeLearner:
        """The learner; one with a ``seed`` gets the run's where none is given."""
        if isinstance(self.learner, EdgeLearner):
            if self.learner_options:
                raise OptionError("options go to the learner where it is made, when a made learner is given")
            if self.learner.graph != self.graph:
                raise OptionError(
                    f"the learner was made for graph '{self.learner.graph.name}', which is not this graph"
                )
            return self.learner
        if "seed" in learner_class(self.learner).options_type.model_fields:
            self.learner_options.setdefault("seed", seed)
        return make_learner(self.learner, self.graph, self.learner_options)


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def _load_data(graph: Graph, data: Any, root: str | Path | None, options: TrainOptions) -> Data:
    """The data, as the graph wants them."""
    size = graph.input_size(graph.inputs[0])
    settings: dict[str, Any] = {
        "task": graph.task,
        "root": root,
        "size": size[1:] if len(size) == 3 else None,
        "workers": options.workers,
    }
    if not options.augment and isinstance(data, str | Path):  # a user's own sets have none but theirs
        settings["augment"] = Augment()
    source = load_data(data, **settings)
    shape = graph.shapes[graph.outputs[0]]
    counted = isinstance(data, tuple | list) and not _declares_classes(data[0])
    if counted and isinstance(shape, Shape) and 0 < len(source.info.classes) < shape.channels:
        # Only the labels that were met have been counted; the graph knows of rarer ones.
        source = load_data(data, classes=shape.channels, **settings)
    return source


def _declares_classes(train: Any) -> bool:
    base = train.dataset if isinstance(train, DataLoader) else train
    while isinstance(base, Subset):
        base = base.dataset
    return bool(getattr(base, "classes", None))


def _metrics(graph: Graph, info: DataInfo) -> dict[str, Metric]:
    """The default metrics; none for what only a loss of the user's own can judge."""
    try:
        check_outputs(graph, info)
    except TopolearnError:
        return {}
    return default_metrics(info)


def _config(
    graph: Graph, length: Mapping[str, Any], learner: EdgeLearner, info: DataInfo, options: TrainOptions
) -> dict[str, Any]:
    """What config.yaml says."""
    return {
        "topolearn": topolearn.__version__,
        "graph": graph.name,
        "task": graph.task,
        **length,
        "learner": learner.learner_name,
        "learner_options": learner.options.model_dump(),
        "data": info.name,
        "input_size": {name: graph.input_size(name) for name in graph.inputs},
        "mean": info.mean,
        "std": info.std,
        "classes": info.classes,
        "ignore_index": info.ignore_index,
        "training": options.model_dump(),
    }


def _holds_run(folder: Path, graph: Graph, config: Mapping[str, Any], resume: bool) -> bool:
    """Whether ``folder`` holds a run, which is then this one.

    Raises:
        CheckpointError: A run that is not to be resumed, or another one.
    """
    if not checkpoint.holds_run(folder):
        return False
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; give --resume, or choose another folder with --out")
    began_with = read_config(folder / checkpoint.CONFIG)
    before = load_graph(folder / checkpoint.SEARCHED)
    if before != graph:
        raise CheckpointError(
            f"the run in {folder} searches graph '{before.name}', which is not this graph '{graph.name}'; choose"
            " another folder with --out"
        )
    compare_config(_normal(began_with), _normal(config), folder)
    return True


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it reads back from its file, without the library's version."""
    plain = parse(write_config(config), "config").root.plain()
    return {key: value for key, value in plain.items() if key != "topolearn"}


def _begin_or_take_up(folder: Path, trainer: Trainer, graph: Graph, config: Mapping[str, Any]) -> None:
    """Begin a run in its folder, or go on from its checkpoint."""
    if checkpoint.holds_run(folder):
        checkpoint.tidy(folder)
        state = checkpoint.load_state(folder)
        if state is not None:
            trainer.restore(state)
            return
    else:
        checkpoint.make_folder(folder)
        checkpoint.remove_state(folder)
        write_atomically(folder / checkpoint.SEARCHED, dumps(graph).encode())
        write_atomically(folder / checkpoint.CONFIG, write_config(config).encode())
    checkpoint.write_history(folder, [])


def _load_weights(net: Network, weights: str | Path) -> None:
    """Start from the weights in a file or a run's folder; the learner keeps its own start."""
    if not isinstance(weights, str | Path):
        raise OptionError(f"'weights' is a safetensors file or the folder of a run, not {shown(weights)}")
    path = Path(weights)
    file = path / checkpoint.WEIGHTS if path.is_dir() else path
    tensors = checkpoint.load_tensors(file)
    learner = {f"learner.{name}": value for name, value in net.learner.state_dict().items()} if net.learner else {}
    plain = {name: value for name, value in tensors.items() if not name.startswith("learner.")}
    checkpoint.load_into(net, plain | learner, file)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise OptionError(f"device '{device}' cannot be used: {str(error).partition(chr(10))[0]}") from None
    return chosen


def _precision(precision: str, device: torch.device) -> str:
    if precision != "auto":
        return precision
    # On a CPU bfloat16 is emulated unless it has special instructions; float32 is never slower there.
    good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if good else "float32"


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic cuDNN convolutions while entered."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextlib.contextmanager
def _tensorboard(folder: Path | None, trainer: Trainer) -> Iterator[None]:
    """Write the history to TensorBoard too, where that is installed and the run has a folder."""
    if folder is None:
        yield
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield
        return
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float):
                writer.add_scalar(f"{record['phase']}/{name}", value, trainer.at.epochs)

    trainer.callbacks = (*trainer.callbacks, write)
    try:
        yield
    finally:
        writer.close()
