"""From what a user calls data to Data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from topolearn.data.folders import load_folder
from topolearn.data.named_images import DATASETS, IMAGE_SETS, MASK_SETS
from topolearn.data.reading import Reading
from topolearn.data.roots import find_folder, roots
from topolearn.data.text import TEXT_SETS, TextFormat, text_in, text_of_ids
from topolearn.errors import DataError, suggest
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data
from topolearn.samples.datasets import DatasetData
from topolearn.samples.loaders import LoaderData
from topolearn.task_kinds import kind_of


class SetName(str):
    """The name of a set that is known by name, and never of a folder that is called the same."""


TrainAndVal = tuple[Dataset[Any], Dataset[Any]] | tuple[DataLoader[Any], DataLoader[Any]]


def load_data(
    data: str | Path | TrainAndVal | Data,
    *,
    task: str | None = None,
    root: str | Path | None = None,
    augment: Augment | Crop | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
    val_split: str | None = None,
    workers: int = 0,
    skip_bad: bool = False,
    text: TextFormat | None = None,
) -> Data:
    """Load data.

    Args:
        data: A name of :data:`DATASETS`, a folder (its path, or its name in one of the folders of
            data sets), a text file, a (train, val) pair of Datasets, of DataLoaders or of the ids of a tokenizer's
            tokens, or Data, returned as is. Where a folder has the name of a set, write ``./NAME`` for the folder.
        task: ``classification``, ``segmentation``, ``saliency``, ``edges`` or ``next_token``; None for what the data
            are for, which of masks is segmentation, and of text the next token.
        root: Folder of data sets to look in first; then TOPOLEARN_DATA, ``./data`` and
            ``~/.cache/topolearn``.
        augment: Of training batches; None for the set's own: see each set, a pair has none. With a
            :class:`Crop`, images with masks may be of different sizes.
        size: (height, width) to which the images of files are resized; None for their own. Pairs and
            named sets of classification keep theirs.
        channels: 1 or 3, to which the images of files and the PIL images of a pair of Datasets are converted;
            None for their own. Tensors, arrays and named sets of classification keep theirs.
        classes: Number of classes of a pair or of masks; None to find out.
        val_split: Subfolder of a folder to validate on; None for ``val``, else ``test``.
        workers: Processes that load the items of a pair of Datasets or of a large folder.
        skip_bad: Whether images of a folder, or their masks, that cannot be used are left out; ``notes`` of
            the data then says how many, and names them.
        text: How text is cut; None for contexts of 64 tokens.

    Raises:
        DataError: Data that do not exist, cannot be read, or are for another task.
    """
    if isinstance(data, Data):
        _check_task(data.info.name, data.info.task, task)
        return data
    if _is_text(data, task):
        return _text(data, root, text or TextFormat(length=64), task)
    if isinstance(data, str | Path):
        return _from_files(data, root, task, augment, classes, val_split, Reading(channels, size, workers, skip_bad))
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(
            f"data is a {type(data).__name__}, but must be a name, a folder, or a pair (train, val) of Datasets or of "
            "DataLoaders"
        )
    if skip_bad:
        raise DataError("'skip_bad' is for files; leave out the items that cannot be used in your Dataset")
    train, val = data
    loaders = [isinstance(each, DataLoader) for each in data]
    if all(loaders):
        if augment is not None:
            raise DataError("'augment' does not go with DataLoaders; give the Datasets instead, or augment in them")
        return LoaderData(train, val, task=task, classes=classes)  # type: ignore[arg-type]
    if any(loaders):
        raise DataError("data is a pair of a Dataset and a DataLoader; give two of a kind")
    return DatasetData(
        train,  # type: ignore[arg-type]
        val,  # type: ignore[arg-type]
        task=task,
        classes=classes,
        channels=channels,
        augment=augment,
        workers=workers,
    )


def _is_text(data: Any, task: str | None) -> bool:
    """Whether data are text: because they are by name, because the task says so, or because it is a .txt file."""
    if isinstance(data, str) and data in DATASETS:
        return data in TEXT_SETS
    return (task is not None and kind_of(task).is_text) or (isinstance(data, str | Path) and _is_text_file(Path(data)))


def _is_text_file(path: Path) -> bool:
    return path.suffix == ".txt" and path.expanduser().is_file()


def _text(data: Any, root: str | Path | None, form: TextFormat, task: str | None) -> Data:
    """A text that is known by name, a file, a folder, or a pair of ids."""
    _check_task(data if isinstance(data, str | Path) else "text", "next_token", task)
    if isinstance(data, str) and data in TEXT_SETS:
        return _known(data, root, TEXT_SETS[data](root, form))
    if isinstance(data, tuple | list) and len(data) == 2:
        train, val = data
        return text_of_ids(train, val, form)
    if not isinstance(data, str | Path):
        raise DataError(
            f"data is a {type(data).__name__}, but for next_token must be a text file, a folder of .txt files, or a"
            " pair (train, val) of ids"
        )
    path = Path(data).expanduser()
    if path.suffix and not path.exists() and find_folder(str(data), root) is None:
        raise DataError(f"there is no file '{path.absolute()}'; give a text file, or a folder of .txt files")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError(f"'{data}' is no file that can be read twice; save the text in a file, and give that")
    return text_in(path if path.is_file() else _folder(data, root), form)


def _from_files(
    data: str | Path,
    root: str | Path | None,
    task: str | None,
    augment: Augment | Crop | None,
    classes: int | None,
    val_split: str | None,
    reading: Reading,
) -> Data:
    """A set that is known by name, or a folder."""
    name = data if isinstance(data, str) and data in DATASETS else None
    if name is None:
        folder = _folder(data, root)
        found = load_folder(folder, task=task, classes=classes, augment=augment, val_split=val_split, reading=reading)
        found.path = folder.absolute()
        return found
    if val_split is not None:
        raise DataError(f"'{name}' has one set to validate on; 'val_split' is for folders")
    _check_task(name, "segmentation" if name in MASK_SETS else "classification", task)
    if name in MASK_SETS:
        return _known(name, root, MASK_SETS[name](root, augment, reading))
    if isinstance(augment, Crop):
        raise DataError(f"'{name}' has images without masks; a crop is for those with, or for Datasets")
    if reading.skip_bad:
        raise DataError(
            f"'{name}' is not one file per image; 'skip_bad' is for folders of images, and those with masks"
        )
    return _known(name, root, IMAGE_SETS[name](root, augment))


def _known(name: str, root: str | Path | None, found: Data) -> Data:
    """The set that is known by ``name``.

    Raises:
        DataError: There is also a folder of this name that is not the set's: either could be meant.
    """
    if isinstance(name, SetName):
        return found
    here = Path(name)
    folder = here if here.is_dir() else None
    if folder is None and found.path is None:  # among folders of data sets, such a name is that of a set in files
        folder = find_folder(name, root)
    if folder is None or (found.path is not None and found.path.resolve().is_relative_to(folder.resolve())):
        return found
    written = f"./{name}" if folder == here else folder
    place = "comes with a library" if found.path is None else f"is in '{found.path}'"
    raise DataError(
        f"'{name}' is the name of a data set, which {place}, and of a folder; write '{written}' for the folder, or"
        " rename the folder to use the data set"
    )


def _check_task(name: str | Path, own: str, task: str | None) -> None:
    """Raise where data for the task ``own`` are asked for another."""
    if task not in (None, own):
        raise DataError(f"'{name}' is for {own}, but the task is {task}; use other data")


def _folder(data: str | Path, root: str | Path | None) -> Path:
    path = Path(data).expanduser()
    if path.is_dir():
        return path
    found = find_folder(str(data), root)
    if found is not None:
        return found
    if path.exists():
        raise DataError(f"'{data}' is a file, but data is a name, a folder or a pair of sets; give its folder")
    if path.name != str(data):
        raise DataError(f"there is no folder '{path.absolute()}'; give another path, or the name of a data set")
    looked = ", ".join(f"'{each}'" for each in (Path(), *roots(root)))
    raise DataError(f"there is no data set '{data}', and no such folder in {looked}{suggest(str(data), DATASETS)}")
