"""Turn the items of your own Datasets into tensors, and check them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topolearn.errors import DataError
from topolearn.samples.base import IGNORE
from topolearn.samples.modes import MODES, common_channels, deep

IMAGE_KEYS = ("image", "img", "pixel_values")
"""Possible keys of the image in an item that is a dict."""

TARGET_KEYS = ("label", "labels", "target", "mask")
"""Possible keys of the target in an item that is a dict."""


def as_pair(item: Any, what: str) -> tuple[Any, Any]:
    """Return the image and the target of an item.

    Args:
        item: An (image, target) pair, or a dict with one of :data:`IMAGE_KEYS` and one of :data:`TARGET_KEYS`.
        what: What errors call the item.

    Raises:
        DataError: The item is something else.
    """
    if isinstance(item, Mapping):
        found = [[key for key in keys if key in item] for keys in (IMAGE_KEYS, TARGET_KEYS)]
        if any(len(keys) != 1 for keys in found):
            has, *needed = (", ".join(map(repr, keys)) for keys in (item, IMAGE_KEYS, TARGET_KEYS))
            raise DataError(
                f"{what} is a dict with the keys {has or 'none'}, but needs just one of {' and one of '.join(needed)};"
                " or give pairs (image, target)"
            )
        return item[found[0][0]], item[found[1][0]]
    if not isinstance(item, tuple | list) or len(item) != 2:
        length = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(f"{what} is a {type(item).__name__}{length}, but must be a pair (image, target)")
    return item[0], item[1]


def to_item(pair: tuple[Any, Any], what: str, channels: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the image and the target of an item as tensors.

    Args:
        pair: The image and the target, as the Dataset gives them.
        what: What errors call the item.
        channels: 1 or 3: a PIL image is converted to it. None takes 1 if the image is grey, else 3.

    Returns:
        The image (C, H, W), float32 as given or uint8 before scaling; the target, () or (H, W), int64, uint8 or
        float32.

    Raises:
        DataError: The image or the target has another type or shape, or a mask has another size than its image.
    """
    image, target = _image(pair[0], what, channels), _target(pair[1], what)
    if target.ndim == 2 and target.shape != image.shape[1:]:
        if target.shape == image.shape[:2]:
            raise DataError(f"the image of {what} {channels_last(image.shape)}")
        raise DataError(
            f"the image of {what} is {'x'.join(map(str, image.shape[1:]))}, but its mask is"
            f" {'x'.join(map(str, target.shape))}; they must have the same size"
        )
    return image, target


@dataclass(frozen=True, slots=True)
class Form:
    """What all items of your own data must have in common. The first training item sets it.

    Attributes:
        channels: Number of channels of an image.
        floats: Whether images are floats, which are used unchanged, not uint8, which are scaled to [0, 1].
        target_axes: Number of axes of a target: 0 for a number, 2 for a mask.
        target_floats: Whether targets are floats instead of labels.
    """

    channels: int
    floats: bool
    target_axes: int
    target_floats: bool

    @classmethod
    def of(cls, image: Tensor, target: Tensor) -> Form:
        """Return the form of an item from its image (C, H, W) and its target."""
        return cls(len(image), image.is_floating_point(), target.ndim, target.is_floating_point())

    def check(self, images: Tensor, targets: Tensor, what: str) -> None:
        """Check that a batch has this form.

        Args:
            images: (N, C, H, W).
            targets: (N, …).
            what: What errors call the set.

        Raises:
            DataError: The batch has another form.
        """
        found = Form(images.shape[1], images.is_floating_point(), targets.ndim - 1, targets.is_floating_point())
        if found == self:
            return
        says = next(say for say in (_channels, _pixels, _targets) if say(found) != say(self))
        raise DataError(
            f"{what} has {says(found)}, but the training set starts with {says(self)}; give all in one form"
        )


def channels_last(size: tuple[int, ...]) -> str:
    """Return the end of the error message for images of a ``size`` (height, width, channels)."""
    first = (size[-1], *size[:-1])
    return f"is {tuple(size)}, but channels come first, as in {first}; give image.permute(2, 0, 1)"


def _channels(form: Form) -> str:
    return f"images of {form.channels} channel{'s' if form.channels > 1 else ''}"


def _pixels(form: Form) -> str:
    return "float images, which are used as they are" if form.floats else "uint8 images, which are scaled to [0, 1]"


def _targets(form: Form) -> str:
    shape = {0: "one per image", 2: "in masks (H, W)"}.get(form.target_axes, f"in tensors of {form.target_axes} axes")
    return f"targets that are {'floats' if form.target_floats else 'whole numbers'}, {shape}"


def to_batch(items: Sequence[tuple[Tensor, Tensor]], what: str) -> tuple[Tensor, Tensor]:
    """Stack items to images (N, C, H, W) and targets (N,) or (N, H, W).

    Raises:
        DataError: The items have different sizes or types.
    """
    images, targets = zip(*items, strict=True)
    return (
        stacked(images, f"{what} has images", "resize them in its transform"),
        stacked(targets, f"{what} has targets", "one kind of target is needed"),
    )


def stacked(tensors: Sequence[Tensor], what: str, mend: str) -> Tensor:
    """Stack tensors along a new first axis, to (N, …).

    Args:
        tensors: N tensors of one size and type.
        what: The start of an error, such as "the set has images".
        mend: The end of an error: what to do.

    Raises:
        DataError: The tensors have different sizes or types.
    """
    found = {(tuple(tensor.shape), tensor.dtype) for tensor in tensors}
    if len(found) > 1:
        shapes = sorted({"x".join(map(str, shape)) for shape, _ in found})
        if len(shapes) == 1:
            shapes = sorted(str(dtype).removeprefix("torch.") for _, dtype in found)
        raise DataError(f"{what} of different sizes or types, {shapes[0]} and {shapes[1]}; {mend}")
    return torch.stack(list(tensors))


def check_values(images: Tensor, targets: Tensor, name: Callable[[int], str]) -> None:
    """Check that images and targets hold no NaN and no infinite values.

    Args:
        images: (N, C, H, W).
        targets: The targets of the images, along the first axis.
        name: What errors call the n-th item.

    Raises:
        DataError: A value is NaN or infinite.
    """
    for kind, values in (("image", images), ("target", targets)):
        check_finite(values, f"the {kind}", name)


def check_finite(values: Tensor, what: str, name: Callable[[int], str]) -> None:
    """Check that a tensor holds no NaN and no infinite values.

    Args:
        values: (N, …).
        what: What errors call one of the N values.
        name: What errors call the n-th item.

    Raises:
        DataError: A value is NaN or infinite.
    """
    if values.is_floating_point() and not bool(values.isfinite().all()):
        place = first_place(~values.isfinite())
        raise DataError(
            f"{what} of {name(place)} holds values that are NaN or infinite; correct it, or leave the item out"
        )


def first_place(wrong: Tensor) -> int:
    """Return the index on the first axis of the first True in a tensor."""
    return int(wrong.flatten().nonzero()[0]) // max(1, wrong[0].numel())


def as_labels(target: Tensor, axes: int) -> str:
    """Return the code that makes labels of your targets, such as ``targets[:, 0].long()``. Empty if none is certain.

    Args:
        target: The target of an item, which is not a label.
        axes: Number of axes of a label: 0, or 2 for a mask.
    """
    if axes == 0 and target.ndim == 1 and sorted(target.tolist()) == [0] * (len(target) - 1) + [1] != [1]:
        return "targets.argmax(1)"
    code, values = ("targets[:, 0]", target[0]) if target.ndim == axes + 1 and len(target) == 1 else ("targets", target)
    if values.ndim != axes or not torch.equal(values, values.round()):
        return ""
    return f"{code}.long()" if values.is_floating_point() else code


def check_start(targets: Tensor, name: Callable[[int], str], ignore_index: int | None = None) -> None:
    """Check that no label is negative.

    Args:
        targets: (N,) or (N, H, W).
        name: What errors call the n-th target.
        ignore_index: The ignored label, or None.

    Raises:
        DataError: A label is negative and is not ``ignore_index``.
    """
    wrong = targets < 0
    if ignore_index is not None:
        wrong &= targets != ignore_index
    if not targets.is_floating_point() and bool(wrong.any()):
        way_out = f", or write {IGNORE} for pixels to ignore" if targets.ndim == 3 else ", or leave the item out"
        raise DataError(
            f"{name(first_place(wrong))} has the label {int(targets[wrong][0])}, but labels start at 0;"
            f" number the classes 0, 1, …{way_out}"
        )


def check_labels(targets: Tensor, classes: int, ignore_index: int | None, name: Callable[[int], str]) -> None:
    """Check that all labels belong to a class or are ignored.

    Args:
        targets: (N,) or (N, H, W).
        classes: Labels must be below this number.
        ignore_index: The ignored label, or None.
        name: What errors call the n-th target.

    Raises:
        DataError: A label is outside 0 … ``classes - 1`` and is not ``ignore_index``.
    """
    if targets.is_floating_point() or not targets.numel() or not classes:
        return
    check_start(targets, name, ignore_index)
    wrong = targets >= classes
    if ignore_index is not None:
        wrong &= targets != ignore_index
    if wrong.any():
        raise DataError(
            f"{name(first_place(wrong))} has the label {int(targets[wrong][0])}, but there are {classes} classes "
            f"(0 to {classes - 1}); "
            "correct the labels, or give the number of classes: load_data(…, classes=N)"
        )


def white_as_one(target: Tensor, what: str) -> Tensor:
    """Replace the label 255 of a mask by 1.

    Raises:
        DataError: The mask already has the label 1.
    """
    if bool((target == 1).any()):
        raise DataError(
            f"{what} has the label 1, but the masks looked at before training hold only 0 and {IGNORE}, which makes"
            f" {IGNORE} the second of two classes; write all masks with the same labels"
        )
    return torch.where(target == IGNORE, 1, target)


def check_size(images: Tensor, size: tuple[int, ...], what: str) -> None:
    """Check that a batch has images (N, C, H, W) of the set's size.

    Raises:
        DataError: The images have another size.
    """
    if images.shape[1:] != size:
        raise DataError(
            f"{what} has images of {'x'.join(map(str, images.shape[1:]))}, but the first is "
            f"{'x'.join(map(str, size))}; resize them in its transform"
        )


def _image(value: Any, what: str, channels: int | None) -> Tensor:
    if isinstance(value, Image.Image) and not deep(value):
        value = np.array(value.convert(MODES[channels or common_channels([value.mode])]))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        array = value[:, :, None] if value.ndim == 2 else value
        return torch.from_numpy(np.array(array.transpose(2, 0, 1)))
    if isinstance(value, Tensor) and value.ndim == 3 and (value.is_floating_point() or value.dtype == torch.uint8):
        return value.float() if value.is_floating_point() else value
    raise DataError(
        f"the image of {what} is {told(value)}, but must be a float tensor (C, H, W), used as it is, or a PIL "
        "image, a uint8 tensor (C, H, W) or a uint8 array (H, W, C), which are scaled to [0, 1]"
    )


def _target(value: Any, what: str) -> Tensor:
    if isinstance(value, Image.Image) and value.mode in ("L", "P", "1"):
        value = np.array(value)
    numbers = as_numbers(value)
    if numbers is None:
        raise DataError(
            f"the target of {what} is {told(value)}, but must be a number, or a mask (H, W) as a tensor, an array or "
            "a PIL image of labels"
        )
    return numbers


def as_numbers(value: Any) -> Tensor | None:
    """Return a number, an array or a tensor as a float32, uint8 (if it is uint8) or int64 tensor; None for others."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, bool | int | float):
        value = torch.tensor(value)
    if not isinstance(value, Tensor) or value.is_complex():
        return None
    if value.is_floating_point():
        return value.float()
    return value if value.dtype == torch.uint8 else value.long()


def told(value: Any) -> str:
    """Describe a value for an error message."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}{', of more than 8 bits per channel' if deep(value) else ''}"
    return f"a {type(value).__name__}"
