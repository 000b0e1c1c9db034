"""Evaluation of a network on a data set: loss and metrics over all batches of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topolearn.distributed import ALONE, World
from topolearn.errors import DataError, OptionError, shown
from topolearn.samples.base import AnyBatch, listed, moved
from topolearn.tasks.base import Loss, Metric
from topolearn.tasks.losses import fit_to_labels


class Evaluation:
    """Measures loss and metrics over the batches of one pass.

    A metric is a ``torchmetrics.Metric``, which returns a number or a dict of numbers, or a function of
    (outputs, targets), averaged over samples. If several processes share the batches, loss and metrics
    cover all of them.

    Attributes:
        per_class: After :meth:`run`, one row per class, from the metric that has an attribute of this name.
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

    def run(self, network: Callable[[Any], Any], batches: Iterable[AnyBatch]) -> dict[str, float]:
        """Return the loss and the metrics of ``network`` over ``batches``.

        Raises:
            DataError: ``batches`` is empty.
        """
        total: dict[str, Tensor] = {}
        count = 0
        for inputs, targets in batches:
            inputs, targets = moved(inputs, self.device), moved(targets, self.device)
            outputs = network(inputs)
            size = len(listed(inputs)[0])
            count += size
            for name, function in {"loss": self.loss, **self.averaged}.items():
                value = _number(name, function(outputs, targets)).double() * size
                total[name] = total[name] + value if name in total else value
            for metric in self.global_metrics.values():
                if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
                    metric.update(fit_to_labels(outputs, targets).float(), targets)
                else:
                    metric.update(outputs, targets)
        sums, count = self.world.totals(total, count)
        if not count:
            raise DataError(
                "the validation set has no samples, so the network cannot be judged; give data with a validation set"
            )
        result = {name: value / count for name, value in sums.items()}
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
