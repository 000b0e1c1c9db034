"""Find the images, classes and masks of a folder by its layout."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from topolearn.data.class_list import CLASS_LIST, ClassList, list_file, other_lists, read_class_list
from topolearn.data.images import SUFFIXES
from topolearn.errors import DataError, first_few
from topolearn.task_kinds import kind_of

_MASK_LAYOUTS = (
    "train/*.png and trainannot/*.png, images/train/*.png and masks/train/*.png, or images/*.png and masks/*.png"
)
LAYOUTS = f"train/CLASS/*.png and val/CLASS/*.png, CLASS/*.png, or with masks {_MASK_LAYOUTS}"
MASKS = ("masks", "annotations", "labels")
"""Possible names of the folder of masks beside ``images``."""

_MASK_ENDINGS = ("", "_mask", "_label", "_gt")
"""What may follow the image's name in the name of its mask, first choice first."""
_VAL = ("val", "valid", "validation", "test")
"""Possible names of the folder to validate on, first choice first."""

_LIKE_TRAIN = frozenset({"train", "training", "train_set", "trainset"})
_LIKE_VAL = frozenset({*_VAL, "dev", "eval", "testing", "test_set", "testset", "val_set", "valset"})
_LIKE_IMAGES = frozenset({"image", "images", "img", "imgs", "jpegimages"})
_LIKE_MASKS = frozenset(
    {*MASKS, "annot", "annotation", "ground_truth", "groundtruth", "gt", "label", "mask", "segmentationclass"}
)
"""Other names of such folders, in small letters. They are not read, but an error says what to call them."""

_NO_CLASSES = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found"})
"""Folders that archives, systems and programs leave behind. They are not classes."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ClassFiles:
    """Images with class numbers.

    Attributes:
        classes: Names of the classes, in the order of ``classes.txt``, else sorted.
        train: Image files with their class numbers.
        val: The same for validation.
        notes: What was skipped.
    """

    classes: tuple[str, ...]
    train: list[tuple[Path, int]]
    val: list[tuple[Path, int]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskFiles:
    """Images with masks.

    Attributes:
        listed: The list of classes.
        train: Image files with their mask files.
        val: The same for validation.
        notes: What was skipped.
        is_known: Whether this is a built-in set. Its labels are not checked.
    """

    listed: ClassList
    train: list[tuple[Path, Path]]
    val: list[tuple[Path, Path]]
    notes: tuple[str, ...] = ()
    is_known: bool = False


def find_files(folder: Path, task: str | None, val_split: str | None) -> ClassFiles | MaskFiles:
    """Find the images of a folder, with their classes or masks.

    Args:
        folder: A folder in one of the :data:`LAYOUTS`.
        task: The task that the folder must be laid out for. None accepts any.
        val_split: Name of the subfolder to validate on.
            None takes ``val``, ``valid``, ``validation`` or ``test``: the first that is there.

    Raises:
        DataError: The folder has another layout.
    """
    home, masks_of = _layout(folder)
    train = home / "train"
    is_split = train.is_dir() and (val_split is not None or not _is_class(train, masks_of))
    if masks_of is None:
        _refuse_masks(train if is_split else home)
    if not is_split:
        _refuse_splits(home)
    found = "classification" if masks_of is None else "segmentation"
    if task is not None and kind_of(task).is_dense != (masks_of is not None):
        way_out = "" if masks_of is None else "write 'task: segmentation' into the graph, or use another layout; "
        raise DataError(
            f"the folder '{folder}' is laid out for {found}, but the task is {task}; {way_out}supported layouts are"
            f" {LAYOUTS}"
        )
    if val_split is not None and not is_split:
        raise DataError(f"the folder '{home}' has no 'train', so it has no '{val_split}' to validate on")
    splits = [train, _val_folder(home, val_split)] if is_split else [home]
    if masks_of is None:
        lists = [] if (folder / CLASS_LIST).exists() else other_lists(*dict.fromkeys((folder, *splits)))
        files = _in_order(_class_folders(*splits) if is_split else _split(home), folder)
        return replace(files, notes=_class_notes(folder, splits, lists))
    parts = [_masked(split, masks_of(split)) for split in splits]
    others = [home / "test"] if is_split else []
    notes = _mask_notes(folder, splits, others, masks_of)
    if not is_split:
        parts = list(_held_out(parts[0], lambda pair: pair[0].name))
        if not parts[1]:
            raise DataError(f"the folder '{home}' has only one image; add at least one more, for validation")
    train_pairs, val_pairs = parts
    halves = [*splits, *map(masks_of, splits)]
    listed = read_class_list(folder, *halves, *(half.parent for half in halves))
    return MaskFiles(listed, train_pairs, val_pairs, notes)


def _refuse_masks(classes: Path) -> None:
    """Raise if folders of classes seem to be images and their masks: no network should tell these apart."""
    image, mask = (_called(classes, like) for like in (_LIKE_IMAGES, _LIKE_MASKS))
    if image is not None and mask is not None:
        raise DataError(
            f"'{image}' and '{mask}' seem to be images and their masks, but are laid out like classes; layouts with"
            f" masks are {_MASK_LAYOUTS}; if they are classes, give the folders other names"
        )


def _refuse_splits(home: Path) -> None:
    """Raise if folders seem to be splits, but have other names."""
    train, val = (_called(home, like) for like in (_LIKE_TRAIN, _LIKE_VAL))
    if train is not None and val is not None:
        raise DataError(
            f"'{train}' and '{val}' seem to be for training and validation; rename them to 'train' and 'val'"
        )


def _called(folder: Path, names: frozenset[str]) -> Path | None:
    """Return the first subfolder that has one of the names, in small or capital letters. None if there is none."""
    return next((path for path in _subfolders(folder) if path.name.casefold() in names), None)


def _layout(folder: Path) -> tuple[Path, Callable[[Path], Path] | None]:
    """Return the folder of the images or their splits, and a function from such a folder to its masks (or None)."""
    if (folder / "train").is_dir():
        return folder, _annot if _annot(folder / "train").is_dir() else None
    home = folder / "images"
    masks = next((folder / name for name in MASKS if (folder / name).is_dir()), None)
    if masks is None or not home.is_dir():
        return folder, None
    return home, lambda split: masks / split.relative_to(home)


def _is_class(train: Path, masks_of: Callable[[Path], Path] | None) -> bool:
    """Whether a folder called ``train`` is a class: it holds images itself, and no other split is beside it."""
    return masks_of is None and bool(images(train)) and not any((train.parent / name).is_dir() for name in _VAL)


def _annot(split: Path) -> Path:
    return split.with_name(f"{split.name}annot")


def _val_folder(folder: Path, name: str | None) -> Path:
    names = _VAL if name is None else (name,)
    for each in names:
        if (folder / each).is_dir():
            return folder / each
    like = _called(folder, _LIKE_VAL) if name is None else None
    way_out = f"add '{folder / names[0]}'" if like is None else f"rename '{like}' to '{names[0]}'"
    raise DataError(f"the folder '{folder}' has 'train' but no '{names[0]}' to validate on; {way_out}")


def images(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def _subfolders(folder: Path) -> list[Path]:
    """Return the class folders in a folder, sorted by name."""
    inner = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return sorted(path for path in inner if path.name not in _NO_CLASSES)


def below(folder: Path) -> Path | None:
    """Return the first folder inside a folder, at any depth, that holds images. None if there is none."""
    for path, inner, _ in os.walk(folder):
        inner[:] = sorted(name for name in inner if name[0] != "." and name not in _NO_CLASSES)
        if Path(path) != folder and images(Path(path)):
            return Path(path)
    return None


def _skipped(folder: Path, left: Sequence[Path], why: str) -> tuple[str, ...]:
    """Return a note on the files and folders in a folder that are skipped. Empty if there are none."""
    if not left:
        return ()
    named = [f"{path.relative_to(folder).as_posix()}{'/' if path.is_dir() else ''}" for path in left]
    what = "file or folder is" if len(left) == 1 else "files and folders are"
    return (f"in '{folder}' {len(left):,} {what} skipped ({why}): {first_few(named)}",)


def _class_notes(folder: Path, splits: Sequence[Path], lists: Sequence[Path]) -> tuple[str, ...]:
    """Return notes on lists of classes that are not read, and on files and folders that are not images of a class.

    Args:
        folder: The folder.
        splits: The folders of the classes.
        lists: Files that seem to list classes, but are not read.
    """
    notes = tuple(
        f"'{path}' seems to list classes, but is not read: the classes are in the order of their folders' names; for"
        f" another order, write '{folder / CLASS_LIST}', each line with the name of a folder"
        for path in lists
    )
    known = {*lists, folder / CLASS_LIST}
    if folder not in splits:
        left = sorted(set(folder.iterdir()) - {*known, *splits, folder / "test"})
        notes += _skipped(folder, left, "neither training nor validation")
    for split in splits:
        classes = _subfolders(split)
        inner = [path for each in classes for path in sorted(set(each.iterdir()) - set(images(each)))]
        left = [*sorted(set(split.iterdir()) - {*classes, *known}), *inner]
        notes += _skipped(split, left, "not images of a class")
    return notes


def _mask_notes(
    folder: Path, splits: Sequence[Path], others: Sequence[Path], masks_of: Callable[[Path], Path]
) -> tuple[str, ...]:
    """Return notes on files and folders that are neither images nor their masks.

    Args:
        folder: The folder.
        splits: The folders of images.
        others: More folders of images, to leave out.
        masks_of: Returns the folder of masks for a folder of images.
    """
    kept = {*splits, *others, *map(masks_of, (*splits, *others))}
    for split in splits:
        stems = {name for names in _mask_names(split).values() for name in names}
        kept |= {*images(split), *(path for path in _mask_files(masks_of(split)) if composed(path.stem) in stems)}
    if (listed := list_file(folder)) is not None:
        kept.add(listed)
    places = {parent for path in kept for parent in path.parents if parent.is_relative_to(folder)}
    return tuple(
        note
        for place in sorted(places)
        if place.is_dir()
        for note in _skipped(place, sorted(set(place.iterdir()) - kept - places), "neither images nor their masks")
    )


def _class_folders(train: Path, val: Path) -> ClassFiles:
    classes = {composed(path.name): path.name for path in _subfolders(train)}
    number = {name: index for index, name in enumerate(classes)}
    if not number:
        way_out = "a class called 'train' needs another name, or splits: train/train and val/train; "
        raise DataError(
            f"the folder '{train}' has no subfolder; {way_out if images(train) else ''}supported layouts are {LAYOUTS}"
        )
    for path in _subfolders(val):
        if composed(path.name) not in number:
            raise DataError(f"'{path}' is a class without a folder in '{train}'; add it there, or remove it")
    train_files, val_files = files = [
        [(file, number[composed(path.name)]) for path in _subfolders(folder) for file in images(path)]
        for folder in (train, val)
    ]
    for folder, found in zip((train, val), files, strict=True):
        if not found:
            raise DataError(f"there is no image in the subfolders of '{folder}'; {_put(folder)}")
    return ClassFiles(tuple(classes.values()), train_files, val_files)


def _put(folder: Path) -> str:
    """Return what to do if a folder or its classes have no images, for an error."""
    deep = below(folder)
    return "put images there" if deep is None else f"move the images of '{deep}' up"


def _split(folder: Path) -> ClassFiles:
    """Hold out a fifth of each class for validation, by a hash of the name: the same images in every run."""
    classes: dict[str, list[Path]] = {}
    for path in _subfolders(folder):
        classes.setdefault(composed(path.name), []).append(path)
    found = [[file for path in paths for file in images(path)] for paths in classes.values()]
    if not any(found):
        if own := len(images(folder)):
            raise DataError(
                f"the folder '{folder}' has no class folders, only {own:,} images of its own; if it is one class, give"
                f" the folder that holds all classes; supported layouts are {LAYOUTS}"
            )
        if (deep := below(folder)) is not None:
            raise DataError(
                f"there is no image in the class folders of '{folder}', but in '{deep}'; if that is a class, give"
                f" '{deep.parent}', else move its images up into the folder of their class"
            )
        raise DataError(f"there is no image in the folder '{folder}'; supported layouts are {LAYOUTS}")
    train: list[tuple[Path, int]] = []
    val: list[tuple[Path, int]] = []
    for number, files in enumerate(found):
        kept, held_out = _held_out(files, lambda file: file.name)
        train += [(file, number) for file in kept]
        val += [(file, number) for file in held_out]
    if not val:
        raise DataError(f"the folder '{folder}' has only one image per class; add images, for validation")
    return ClassFiles(tuple(paths[0].name for paths in classes.values()), train, val)


def _in_order(files: ClassFiles, folder: Path) -> ClassFiles:
    """Return the images with their classes in the order of the folder's ``classes.txt``, if there is one."""
    path = folder / CLASS_LIST
    if not path.exists():
        return files
    listed = [composed(name) for _, name in sorted(read_class_list(folder).names.items())]
    own = [composed(name) for name in files.classes]
    if sorted(listed) != sorted(own):
        wrong = [f"it lacks '{name}'" for name in own if name not in listed]
        wrong += [f"there is no folder '{name}'" for name in listed if name not in own] or ["it has a name twice"]
        raise DataError(
            f"'{path}' must name each class folder once, one per line, in the order of the classes; but {wrong[0]}"
        )
    number = [listed.index(name) for name in own]
    order = sorted(range(len(own)), key=lambda index: number[index])
    return replace(
        files,
        classes=tuple(files.classes[index] for index in order),
        train=[(image, number[index]) for image, index in files.train],
        val=[(image, number[index]) for image, index in files.val],
    )


def _held_out(items: Sequence[_T], name: Callable[[_T], str]) -> tuple[list[_T], list[_T]]:
    """Return four fifths of the items and the held-out fifth, which is empty for a single item."""
    drawn = sorted(items, key=lambda item: hashlib.blake2b(os.fsencode(name(item))).digest())
    count = max(1, round(len(drawn) / 5)) if len(drawn) > 1 else 0
    return sorted(drawn[count:], key=name), sorted(drawn[:count], key=name)


def _masked(folder: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Return the images of a folder with their masks."""
    there = {composed(path.stem): path for path in _mask_files(masks)}
    names = _mask_names(folder)
    pairs = [
        (image, next((there[name] for name in names[image] if name in there), masks / f"{image.stem}.png"))
        for image in names
    ]
    if not pairs:
        raise DataError(f"there is no image in the folder '{folder}'; {_put(folder)}")
    for (first, _), (second, _) in pairwise(pairs):
        if first.stem == second.stem:
            raise DataError(f"'{first}' and '{second}' would share one mask; rename or remove one of them")
    return pairs


def _mask_files(folder: Path) -> list[Path]:
    """Return the files of a folder that may be masks. Among files of the same name, the PNG file comes last."""
    return sorted(images(folder), key=lambda path: path.suffix.lower() == ".png") if folder.is_dir() else []


def _mask_names(folder: Path) -> dict[Path, list[str]]:
    """Return image -> possible names of its mask, without suffix. Names that belong to other images are left out."""
    found = images(folder)
    stems = {composed(image.stem) for image in found}
    names = {image: [composed(image.stem) + ending for ending in _MASK_ENDINGS] for image in found}
    return {image: [each[0], *(name for name in each[1:] if name not in stems)] for image, each in names.items()}


def composed(name: str) -> str:
    """Return a name with composed accents. macOS writes accents in file names as separate characters."""
    return unicodedata.normalize("NFC", name)


def like_the_missing(mask: Path) -> str:
    """Return a hint that names a similar file if the mask is missing, else an empty string."""
    if mask.is_file() or not mask.parent.is_dir():
        return ""
    stem = composed(mask.stem)
    names = sorted(path.name for path in mask.parent.iterdir() if composed(path.name).startswith(stem))
    return next((f" ('{name}' is there)" for name in names if not composed(name)[len(stem)].isalnum()), "")
