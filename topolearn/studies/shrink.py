"""``shrink``: from a trained network to a smaller one, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from topolearn.compiler import Network
from topolearn.compiler.network import unwrapped
from topolearn.data.for_graph import read_data
from topolearn.data.load import load_data
from topolearn.data.named_images import IMAGE_SETS
from topolearn.errors import OptionError
from topolearn.learners import learner_class
from topolearn.lifting import lift
from topolearn.lifting.sources import SOURCE
from topolearn.ops import Shape
from topolearn.options import validate
from topolearn.recipes.train_options import TrainOptions
from topolearn.runs import FitResult
from topolearn.runs.folder import CONFIG
from topolearn.training import fit

EPOCHS, LR = 10, 0.01
"""Defaults for training a network that is trained already."""

ADAPT = 0.5
"""Share of the epochs in which a network with a new last layer is trained before it is shrunk."""


def shrink(
    model: nn.Module | str,
    data: Any,
    budget: Mapping[str, float],
    *,
    weights: str | Path | None = None,
    learner: str = "ablation",
    size: int | tuple[int, int] | None = None,
    epochs: int = EPOCHS,
    lr: float = LR,
    training: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    **options: Any,
) -> FitResult:
    """Make a trained network smaller: lift it, remove the blocks that it misses least, fine-tune what is left.

    If the data have another number of classes than the weights, the network gets a new last layer. Half of the epochs
    then train the whole network before blocks are scored.

    Args:
        model: A trained network, which is not changed, lifted or not; or the name of one: torchvision's (``resnet50``)
            or timm's (``timm:convnext_tiny``).
        data: As in :func:`topolearn.fit`.
        budget: Largest cost of the result, as a share of the network's: ``{"macs": 0.6}``, ``{"params": 0.6}`` or
            ``{"milliseconds": 0.6}``.
        weights: As in :func:`topolearn.lift`; needed for a network by name.
        learner: What decides which blocks go: ``ablation``, ``taylor``, ``similarity``, ``random_blocks``, or a learner
            that searches, such as ``continuous``.
        size: Height and width of the images, for which costs are computed. Default: those of a built-in data set, else
            224.
        epochs: Epochs of training in all phases.
        lr: Peak learning rate.
        training: Options of :class:`topolearn.recipes.TrainOptions`.
        data_root: Folder that is searched first for data sets.
        options: Other arguments of :func:`topolearn.fit` (``out``, ``batch_size``, ``seed`` …), and options of the
            learner.

    Returns:
        The result of ``fit``: given, as removed, and final.

    Raises:
        TopolearnError: One of its subclasses, for input that cannot be used.
    """
    if not isinstance(budget, Mapping):
        raise OptionError(f"'budget' of shrink is {budget!r}; name what it limits, as {{'macs': 0.6}}")
    _check_is_network(model, learner, budget)
    if isinstance(model, str) and weights is None:
        raise OptionError(
            f"shrink needs a trained network: give the weights of '{model}', a file or DEFAULT for torchvision's own"
        )
    asked = dict(training or {})
    given = model if isinstance(model, str) else unwrapped(model)
    if isinstance(given, Network):
        _check_lifted(given, weights, size)
        net = given
    else:
        size = _usual_size(data, data_root) if size is None else size
        net = lift(given, weights, size=size)
    found = read_data(net.graph, data, data_root, validate(TrainOptions, asked, "training"))
    classes = len(found.info.classes)
    if found.info.kind.target == "label" and classes != _outputs(net):
        if not isinstance(model, str):
            raise OptionError(
                f"the network has {_outputs(net)} outputs, but data '{found.info.name}' have {classes} classes; give it"
                " another last layer and train it, then shrink it"
            )
        net = lift(given, weights, size=size, classes=classes)
        if learner_class(learner).scores_blocks:
            asked.setdefault("phases", {"adapt": ADAPT, "fine_tune": 1 - ADAPT})
    return fit(net, learner, found, epochs=epochs, lr=lr, training=asked, budget=dict(budget), **options)


def _check_is_network(model: nn.Module | str, learner: str, budget: Mapping[str, float]) -> None:
    """Raise an OptionError for what looks like a network, and has a way of its own to become smaller."""
    if isinstance(model, nn.Module):
        net = unwrapped(model)
        if (
            isinstance(net, Network)
            and SOURCE in net.graph.sources
            and not any(edge.learnable for edge in net.graph.edges)
        ):
            raise OptionError(
                "nothing is left to remove: this network has been pruned; to go on from it, shrink"
                " topolearn.unlift(network)"
            )
        return
    path = Path(model)
    if path.suffix.lower() in (".yaml", ".yml"):
        settings = " ".join(f"--set budget.{kind}={share}" for kind, share in budget.items())
        raise OptionError(
            f"shrink takes a network, and '{model}' is a graph file; for a graph there is: topolearn fit {model}"
            f" --weights FILE --learner {learner} {settings}"
        )
    if path.is_dir() and (path / CONFIG).is_file():
        raise OptionError(
            f"shrink takes a network, and '{model}' is the folder of a run; in Python, shrink"
            f" topolearn.unlift(topolearn.load_model('{model}'))"
        )


def _check_lifted(net: Network, weights: Any, size: int | Sequence[int] | None) -> None:
    """Raise an OptionError if a lifted network was given with other weights or another size."""
    if weights is not None:
        raise OptionError("the network is lifted already and has its weights; leave out 'weights'")
    own = net.graph.input_size(net.graph.inputs[0])[1:]
    asked = (size, size) if isinstance(size, int) else size
    if asked is not None and tuple(asked) != own:
        raise OptionError(
            f"the network is lifted already, for images of {' x '.join(map(str, own))}; leave out 'size', or lift it"
            " again"
        )


def _usual_size(data: Any, root: str | Path | None) -> tuple[int, int] | None:
    """Return the height and width of a built-in set's images; None for other data."""
    if not isinstance(data, str) or data not in IMAGE_SETS:
        return None
    _, height, width = load_data(data, root=root).info.size
    return height, width


def _outputs(net: Network) -> int:
    shape = net.graph.shapes[net.graph.outputs[0]]
    assert isinstance(shape, Shape)
    return shape.channels
