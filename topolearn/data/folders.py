"""Data from folders of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from topolearn.data.augment import Augment, Crop
from topolearn.data.base import Data, DataInfo
from topolearn.data.folder_layout import MaskFiles, find_files
from topolearn.data.images import ImageFiles, look_at, too_deep
from topolearn.data.masks import load_masks
from topolearn.data.modes import common_channels, conversions
from topolearn.data.reading import Reading, data_from, in_threads
from topolearn.errors import DataError
from topolearn.task_kinds import kind_of


def load_folder(
    folder: Path,
    *,
    task: str | None = None,
    classes: int | None = None,
    augment: Augment | Crop | None = None,
    val_split: str | None = None,
    reading: Reading | None = None,
) -> Data:
    """Data from a folder of images.

    Args:
        folder: ``train/CLASS/*.png`` and ``val/CLASS/*.png``; ``CLASS/*.png``, of which a fifth is
            for validation; or, with masks, ``train/NAME.jpg`` with ``trainannot/NAME.png`` or
            ``images/train/NAME.jpg`` with ``masks/train/NAME.png`` (or ``annotations``, or
            ``labels``), the same for ``val`` or ``test``, or without either, of which a fifth is for
            validation; and beside them ``classes.txt`` with a line for each label: ``NAME``, or
            ``LABEL NAME``, or ``R G B NAME`` for coloured masks. Labels named ``void`` or
            ``unlabelled`` there are ignored, as 255 is without a name; every other needs a name. A mask
            may also be a BMP, TIFF or WebP file, of yes and no a JPEG, and be called ``NAME_mask``,
            ``NAME_label`` or ``NAME_gt``.
        task: None for ``classification`` or ``segmentation``, whichever the folder is laid out for.
        classes: Number of classes of masks without a ``classes.txt``; None for all that occur.
        augment: None for the default: none for class folders, random flips for folders with masks.
        val_split: Name of the subfolder to validate on; None for ``val``, else ``test``.
        reading: How the files are read; None for its defaults. Images without a size to resize to
            must agree, except for masks with a :class:`Crop`.

    Raises:
        DataError: Another layout, or a file that cannot be used.
    """
    reading = reading or Reading()
    files = find_files(folder, task, val_split)
    name = folder.resolve().name
    if isinstance(files, MaskFiles):
        where = f"the masks in '{files.train[0][1].parent}'"
        return load_masks(
            files, name, where, task=task or "segmentation", classes=classes, augment=augment, reading=reading
        )
    looks = in_threads(_look_at, [path for path, _ in (*files.train, *files.val)])
    modes = Counter(mode for _, mode in looks)
    channels = reading.channels or common_channels(modes)
    size = reading.size or looks[0][0]
    if classes not in (None, len(files.classes)):
        raise DataError(f"the folder '{folder}' has {len(files.classes)} classes, not {classes}")
    train, val = (
        ImageFiles(part, channels, size, resize=reading.size is not None) for part in (files.train, files.val)
    )
    own = task if task is not None and kind_of(task).target == "label" else "classification"
    info = DataInfo(name, own, files.classes, (channels, *size), mean=(), std=())
    augment = Augment() if augment is None else augment
    data = data_from(train, val, info, augment=augment, workers=reading.workers, one_size=True)
    data.notes = tuple(conversions(modes, channels))
    return data


def _look_at(image: Path) -> tuple[tuple[int, int], str]:
    """(height, width) and mode of an image that can be used."""
    size, mode = look_at(image)
    if mode[0] in "IF":
        raise DataError(too_deep(image))
    return size, mode
