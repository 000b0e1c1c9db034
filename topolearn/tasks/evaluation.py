"""Metrics by task, and what data must have to be judged by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topolearn.data import DENSE, DataInfo
from topolearn.distributed import ALONE, World
from topolearn.errors import DataError, OptionError, shown
from topolearn.graph import Graph
from topolearn.ops import Shape
from topolearn.tasks.losses import Loss, default_loss, fit_to_labels

__all__ = [
    "Evaluation",
    "Loss",
    "Metric",
    "check_fits",
    "check_functions",
    "check_outputs",
    "default_loss",
    "default_metrics",
    "fit_to_labels",
]

Metric = Callable[[Any, Tensor], Any]


def default_metrics(info: DataInfo) -> dict[str, Metric]:
    """By task; a metric may give several numbers, which then have names of their own.

    Classification: ``accuracy``. Segmentation: ``miou`` (mean over classes) and ``accuracy`` of
    pixels. Saliency: ``f_beta`` and ``mae``. Edges: ``ods`` and ``ois``. None for data without classes.
    """
    match info.task:
        case "segmentation" if info.classes:
            from topolearn.tasks.pixels import Segmentation

            return {"segmentation": Segmentation(info.classes, info.ignore_index)}
        case "saliency":
            from topolearn.tasks.pixels import Saliency

            return {"saliency": Saliency(info.ignore_index)}
        case "edges":
            from topolearn.tasks.edge_detection import Edges

            return {"edges": Edges(info.ignore_index)}
    if not info.classes:
        return {}
    from torchmetrics.classification import MulticlassAccuracy

    classes = max(2, len(info.classes))
    return {"accuracy": MulticlassAccuracy(num_classes=classes, ignore_index=info.ignore_index, average="micro")}


class Evaluation:
    """Loss and metrics over the batches of one pass.

    A metric is a ``torchmetrics.Metric``, which gives a number or a dict of them, or a function of
    (outputs, targets) whose values are averaged over samples. Where several processes share the
    batches, both are over all of them.

    Attributes:
        per_class: After :meth:`run`, what a metric with an attribute of this name says of each class.
    """

    def __init__(self, loss: Loss, metrics: Mapping[str, Metric], device: torch.device, world: World = ALONE) -> None:
        from torchmetrics import Metric as TorchMetric

        self.loss = loss
        self.world = world
        self.device = device
        self.global_metrics: dict[str, Any] = {}
        self.averaged: dict[str, Metric] = {}
        self.per_class: list[dict[str, Any]] = []
        for name, metric in metrics.items():
            if isinstance(metric, TorchMetric):
                metric.reset()
                self.global_metrics[name] = metric.to(device)
            else:
                self.averaged[name] = metric

    def run(self, network: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Loss and metrics of ``network`` over ``batches``."""
        total: dict[str, Tensor] = {}
        count = 0
        for images, targets in batches:
            images, targets = images.to(self.device), targets.to(self.device)
            outputs = network(images)
            size = len(images)
            count += size
            for name, function in {"loss": self.loss, **self.averaged}.items():
                value = _number(name, function(outputs, targets)).double() * size
                total[name] = total[name] + value if name in total else value
            for metric in self.global_metrics.values():
                if isinstance(outputs, Tensor):
                    metric.update(fit_to_labels(outputs, targets).float(), targets)
                else:
                    metric.update(outputs, targets)
        sums, count = self.world.totals(total, count)
        result = {name: value / max(1, count) for name, value in sums.items()}
        for name, metric in self.global_metrics.items():
            value = metric.compute()
            values = value if isinstance(value, Mapping) else {name: value}
            result |= {each: float(_number(each, number)) for each, number in values.items()}
            self.per_class = getattr(metric, "per_class", self.per_class)
        return result


def _number(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor | int | float | np.number | np.ndarray):
        raise OptionError(f"'{name}' gives {shown(value)}, but must give a number")
    number = torch.as_tensor(value).detach()
    if number.numel() != 1:
        raise OptionError(f"'{name}' gives {number.numel()} numbers, but must give one; average them")
    return number.reshape(())


def check_functions(loss: Loss | None, metrics: Mapping[str, Metric] | None, callbacks: Sequence[Any]) -> None:
    """Raise where loss, metrics or callbacks are not what can be called."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise OptionError("'metrics' is a mapping from name to metric, as {'error': function}")
    if not isinstance(callbacks, tuple | list):
        raise OptionError("'callbacks' is a list of functions, each of one record")
    given = {"loss": loss, **{f"metrics.{name}": metric for name, metric in (metrics or {}).items()}}
    given |= {f"callbacks[{place}]": callback for place, callback in enumerate(callbacks)}
    for name, function in given.items():
        if not callable(function) and (name != "loss" or function is not None):
            raise OptionError(f"'{name}' is {shown(function)}, but must be a function")
    if "loss" in (metrics or {}):
        raise OptionError("a metric cannot be called 'loss', because the loss is; choose another name")


def check_fits(graph: Graph, info: DataInfo) -> None:
    """Raise where the data cannot go into the graph: another task, other inputs."""
    if info.task != graph.task:
        raise DataError(
            f"data '{info.name}' is for {info.task}, but graph '{graph.name}' is for {graph.task}; use other data, or"
            " change 'task' in the graph"
        )
    if len(graph.inputs) > 1:
        raise DataError(
            f"graph '{graph.name}' has the inputs {', '.join(graph.inputs)}, but data have one; train it in a loop of"
            " your own, with topolearn.optimizers"
        )
    size = graph.input_size(graph.inputs[0])
    if len(size) != 3:
        raise DataError(
            f"data '{info.name}' has images, but input '{graph.inputs[0]}' of graph '{graph.name}' takes vectors; train"
            " it in a loop of your own, with topolearn.optimizers"
        )
    if size[0] != info.size[0]:
        raise DataError(
            f"data '{info.name}' has {info.size[0]} channels, but input '{graph.inputs[0]}' of graph"
            f" '{graph.name}' takes {size[0]}; change 'inputs' in the graph"
        )


def check_outputs(graph: Graph, info: DataInfo) -> None:
    """Raise where the default loss and metrics cannot judge what comes out of the graph."""
    if len(graph.outputs) > 1:
        raise OptionError(
            f"graph '{graph.name}' has the outputs {', '.join(graph.outputs)}; give a 'loss' of (outputs, targets), in"
            " which the outputs are a dict by node id"
        )
    if not info.classes:
        raise OptionError(f"data '{info.name}' has no classes; give a 'loss' of (outputs, targets)")
    output = f"output '{graph.outputs[0]}' of graph '{graph.name}'"
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    dense = info.task in DENSE
    if shape.is_map != dense:
        wanted = "segmentation_head" if dense else "classifier"
        raise DataError(f"{info.task} cannot be learned from {output}, which is {shape}; end the graph in a {wanted}")
    if shape.channels != len(info.classes):
        raise DataError(
            f"data '{info.name}' has {len(info.classes)} classes, but {output} has {shape.channels}; set"
            f" 'nodes.{graph.outputs[0]}.classes' to {len(info.classes)}"
        )
