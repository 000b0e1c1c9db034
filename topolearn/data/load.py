"""Load data from what you give: a name, a folder, a text, a pair of sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from topolearn.data.folders import load_folder
from topolearn.data.named_images import DATASETS, IMAGE_SETS, MASK_SETS
from topolearn.data.reading import Reading
from topolearn.data.roots import find_folder, folder_names, roots
from topolearn.data.text import TEXT_SETS, TextFormat, text_in, text_of_ids
from topolearn.errors import DataError, shown, suggest
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data
from topolearn.samples.datasets import DatasetData
from topolearn.samples.loaders import LoaderData
from topolearn.samples.modes import MODES
from topolearn.task_kinds import kind_of


class SetName(str):
    """The name of a built-in set, even if a folder has the same name."""


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
    """Load a built-in set, a folder, a text, or a pair of your own sets, for training.

    Args:
        data: What to load:

            - a name of :data:`DATASETS`;
            - a folder: its path, or its name in one of the folders of data sets. If it has the name of a built-in
              set, write ``./NAME``;
            - a text file;
            - a (train, val) pair of Datasets, of DataLoaders, or of ids from your own tokenizer;
            - Data, which is returned as is.
        task: ``classification``, ``segmentation``, ``saliency``, ``edges`` or ``next_token``. None takes the task of
            the data: segmentation for masks, the next token for text.
        root: Folder of data sets to look in first. Then TOPOLEARN_DATA, ``./data`` and ``~/.cache/topolearn``
            follow.
        augment: Augmentation of training batches. None takes the default of the set; a pair has none. With a
            :class:`Crop`, images with masks may have different sizes.
        size: (height, width) to which images from files are resized. None keeps their size. Pairs and built-in
            sets for classification are not resized.
        channels: 1 or 3: images from files and PIL images of a pair of Datasets are converted to it. None keeps
            theirs. Tensors, arrays and built-in sets for classification are not converted.
        classes: Number of classes of a pair or of masks. None finds it out.
        val_split: Subfolder of a folder to validate on.
            None takes ``val``, ``valid``, ``validation`` or ``test``: the first that is there.
        workers: Number of processes that load the items of a pair of Datasets or of a large folder.
        skip_bad: Whether to leave out images of a folder that cannot be used, or have such a mask. The data's
            ``notes`` then give their number and names.
        text: How text is cut. None takes contexts of 64 tokens.

    Raises:
        DataError: The data do not exist, cannot be read, or are for another task.
    """
    _check_numbers(size, channels, classes, workers)
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
        raise DataError("'skip_bad' is for files; leave bad items out in your Dataset")
    train, val = data
    loaders = [isinstance(each, DataLoader) for each in data]
    if all(loaders):
        if augment is not None:
            raise DataError("'augment' does not work with DataLoaders; give the Datasets instead, or augment in them")
        return LoaderData(train, val, task=task, classes=classes)  # type: ignore[arg-type]
    if any(loaders):
        raise DataError("data is a pair of a Dataset and a DataLoader; give two Datasets or two DataLoaders")
    return DatasetData(
        train,  # type: ignore[arg-type]
        val,  # type: ignore[arg-type]
        task=task,
        classes=classes,
        channels=channels,
        augment=augment,
        workers=workers,
    )


def _check_numbers(size: Any, channels: Any, classes: Any, workers: Any) -> None:
    """Raise a DataError if a number that was given is not one."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    if size is not None and not (isinstance(size, tuple | list) and len(size) == 2 and all(whole(n, 1) for n in size)):
        raise DataError(f"'size' is {shown(size)}, but must be (height, width) in pixels")
    if channels not in (None, *MODES):
        raise DataError(f"'channels' is {shown(channels)}, but must be 1 or 3")
    if classes is not None and not whole(classes, 1):
        raise DataError(f"'classes' is {shown(classes)}, but must be a whole number, 1 or more")
    if not whole(workers, 0):
        raise DataError(f"'workers' is {shown(workers)}, but must be a whole number, 0 or more")


def _is_text(data: Any, task: str | None) -> bool:
    """Whether data are text: a built-in text, data for a task on text, or a .txt file."""
    if isinstance(data, str) and data in DATASETS:
        return data in TEXT_SETS
    return (task is not None and kind_of(task).is_text) or (isinstance(data, str | Path) and _is_text_file(Path(data)))


def _is_text_file(path: Path) -> bool:
    return path.suffix == ".txt" and path.expanduser().is_file()


def _text(data: Any, root: str | Path | None, form: TextFormat, task: str | None) -> Data:
    """Load a built-in text, a text file, a folder of texts, or a pair of ids."""
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
        raise DataError(f"'{data}' is not a file that can be read twice; save the text in a file, and give that")
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
    """Load a built-in set of images, or a folder."""
    name = data if isinstance(data, str) and data in DATASETS else None
    if name is None:
        folder = _folder(data, root)
        found = load_folder(folder, task=task, classes=classes, augment=augment, val_split=val_split, reading=reading)
        found.path = folder.absolute()
        return found
    if val_split is not None:
        raise DataError(f"'{name}' has only one validation set; 'val_split' is for folders")
    _check_task(name, "segmentation" if name in MASK_SETS else "classification", task)
    if name in MASK_SETS:
        return _known(name, root, MASK_SETS[name](root, augment, reading))
    if isinstance(augment, Crop):
        raise DataError(f"'{name}' has images without masks; a crop is for images with masks, or for Datasets")
    if reading.skip_bad:
        raise DataError(
            f"'{name}' does not have one file per image; 'skip_bad' is for folders of images, with or without masks"
        )
    return _known(name, root, IMAGE_SETS[name](root, augment))


def _known(name: str, root: str | Path | None, found: Data) -> Data:
    """Return the built-in set ``found``, and raise if ``name`` could also mean a folder.

    Raises:
        DataError: There is a folder of this name that does not hold the set.
    """
    if isinstance(name, SetName):
        return found
    here = Path(name)
    folder = here if here.is_dir() else None
    # For a set in files, a folder of its name in a folder of data sets is the set's own: no conflict.
    if folder is None and found.path is None:
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
    """Raise if the data are for the task ``own``, and ``task`` is another."""
    if task not in (None, own):
        raise DataError(f"'{name}' is for {own}, but the task is {task}; use other data, or another task")


def _folder(data: str | Path, root: str | Path | None) -> Path:
    path = Path(data).expanduser()
    if path.is_dir():
        return path
    found = find_folder(str(data), root)
    if found is not None:
        return found
    if path.exists():
        raise DataError(f"'{data}' is a file; give its folder, the name of a data set, or a pair (train, val)")
    if path.name != str(data):
        raise DataError(f"there is no folder '{path.absolute()}'; give another path, or the name of a data set")
    looked = ", ".join(f"'{each}'" for each in (Path(), *roots(root)))
    hint = suggest(str(data), DATASETS, folder_names(root))
    raise DataError(f"there is no data set '{data}', and no such folder in {looked}{hint}")
