"""Load data from folders of images."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from topolearn.data.folder_layout import ClassFiles, MaskFiles, below, find_files
from topolearn.data.images import ImageFiles, look_at, open_image
from topolearn.data.masks import load_masks
from topolearn.data.reading import Reading, data_from, in_threads, left_out
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data, DataInfo
from topolearn.samples.modes import common_channels, conversions
from topolearn.samples.occurrence import check_occurrence, not_validated
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
    """Load data from a folder of images.

    Folders with classes hold ``train/CLASS/*.png`` and ``val/CLASS/*.png``, or ``CLASS/*.png``. The classes are sorted
    by name, unless ``classes.txt`` beside the folders lists their names in another order, one per line.

    Folders with masks hold ``train/NAME.jpg`` with ``trainannot/NAME.png``, or ``images/train/NAME.jpg`` with
    ``masks/train/NAME.png`` (or ``annotations``, or ``labels``), and the same for ``val``. Or they hold
    ``images/NAME.jpg`` with ``masks/NAME.png``. A mask may also be a BMP, TIFF or WebP file, a mask of yes and no also
    a JPEG. It may be called ``NAME_mask``, ``NAME_label`` or ``NAME_gt``.

    Without ``train``, a fifth of the images is held out for validation.

    Beside the folders of masks, ``classes.txt`` has a line for each label: ``NAME``, ``LABEL NAME``, or ``R G B NAME``
    for coloured masks. Labels named ``void`` or ``unlabelled`` are ignored, and so is 255 if it has no name. Every
    other label needs a name.

    Args:
        folder: A folder in one of these layouts.
        task: None takes ``classification`` or ``segmentation``, whichever the folder is laid out for.
        classes: Number of classes of masks without a ``classes.txt``. None takes all that occur.
        augment: None takes the default: no augmentation for class folders, random flips for folders with masks.
        val_split: Name of the subfolder to validate on.
            None takes ``val``, ``valid``, ``validation`` or ``test``: the first that is there.
        reading: How the files are read. None takes its defaults. If it has no ``size``, all images must have the
            same size, except for masks with a :class:`Crop`.

    Raises:
        DataError: The folder has another layout, or a file cannot be used.
    """
    reading = reading or Reading()
    files = find_files(folder, task, val_split)
    name = folder.resolve().name
    if isinstance(files, MaskFiles):
        where = f"the masks in '{files.train[0][1].parent}'"
        return load_masks(
            files, name, where, task=task or "segmentation", classes=classes, augment=augment, reading=reading
        )
    if classes not in (None, len(files.classes)):
        raise DataError(f"the folder '{folder}' has {len(files.classes)} classes, not {classes}")
    notes = list(files.notes)
    if reading.skip_bad:
        files = replace(
            files,
            train=_usable(files.train, f"training images of '{name}'", notes),
            val=_usable(files.val, f"validation images of '{name}'", notes),
        )
    _judge(folder, files)
    of_class = Counter(number for _, number in files.val)
    counts = [of_class[number] for number in range(len(files.classes))]
    notes += not_validated(files.classes, counts, "no validation image is of")
    looks = in_threads(look_at, [path for path, _ in (*files.train, *files.val)])
    modes = Counter(mode for _, mode in looks)
    channels = reading.channels or common_channels(modes)
    notes += conversions(modes, channels)
    size = reading.size or looks[0][0]
    train, val = (
        ImageFiles(part, channels, size, resize=reading.size is not None) for part in (files.train, files.val)
    )
    own = task if task is not None and kind_of(task).target == "label" else "classification"
    info = DataInfo(name, own, files.classes, (channels, *size), mean=(), std=())
    augment = Augment() if augment is None else augment
    data = data_from(train, val, info, augment=augment, workers=reading.workers, one_size=True)
    data.notes = tuple(notes)
    return data


def _usable(files: list[tuple[Path, int]], what: str, notes: list[str]) -> list[tuple[Path, int]]:
    """Return the images that can be used, and add a note on the others."""
    faults = in_threads(_fault, [path for path, _ in files])
    notes += left_out([fault for fault in faults if fault is not None], len(files), what, skip_bad=True)
    return [file for file, fault in zip(files, faults, strict=True) if fault is None]


def _fault(path: Path) -> str | None:
    """Return why an image cannot be used, or None if it can."""
    try:
        open_image(path)
    except DataError as error:
        return error.message
    return None


def _judge(folder: Path, files: ClassFiles) -> None:
    """Raise unless every class has a training image."""
    number = Counter(index for _, index in files.train)
    counts = [number[index] for index in range(len(files.classes))]
    found = dict(zip(files.classes, counts, strict=True))
    mend = "put images into each, or remove the folders of classes that have none"
    empty = [home / name for name, count in found.items() if not count for home in (folder / "train", folder)]
    deeper = [place for place in map(below, empty) if place is not None]
    if deeper:
        mend = f"move the images of '{deeper[0]}' up into the folder of their class"
    check_occurrence(files.classes, counts, found, "images", f"the class folders of '{folder}'", mend)
