"""The built-in data sets of images and masks. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from topolearn.data.class_list import ClassList
from topolearn.data.folder_layout import MaskFiles, images
from topolearn.data.masks import load_masks
from topolearn.data.reading import Reading
from topolearn.data.roots import find_set
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation with which torchvision's pretrained backbones normalise images."""

_VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_CAMVID = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian"),
    *("bicyclist", "unlabelled"),
)


def voc(root: str | Path | None = None, augment: Augment | Crop | None = None, reading: Reading | None = None) -> Data:
    """PASCAL VOC 2012, 21 classes: trains on trainaug if SBD's masks are there, else on train; validates on val.

    Sources: Everingham et al. 2012; SBD (Hariharan et al. 2011), read from ``SegmentationClassAug/*.png`` and
    ``trainaug.txt``.

    Args:
        root: Folder to look in first.
        augment: Augmentation of training batches. None takes flips, and needs a size in ``reading``.
        reading: How the files are read.

    Raises:
        DataError: The set is not found, or a file does not have the expected content.
    """
    home = _voc_home(root)
    masks, listed = home / "SegmentationClassAug", home / _VOC_LISTS / "trainaug.txt"
    if masks.is_dir() and listed.is_file():
        return _voc(home, "voc", "trainaug", masks, augment, reading)
    data = _voc(home, "voc", "train", home / "SegmentationClass", augment, reading)
    missing = listed if masks.is_dir() else masks
    data.notes += (f"'{missing}' is not there: trained on VOC's own {data.train_size:,} images, without SBD's",)
    return data


def voc_train(
    root: str | Path | None = None, augment: Augment | Crop | None = None, reading: Reading | None = None
) -> Data:
    """PASCAL VOC 2012 with only its own 1,464 training images.

    Arguments and errors are those of :func:`voc`.
    """
    home = _voc_home(root)
    return _voc(home, "voc-train", "train", home / "SegmentationClass", augment, reading)


_VOC_LISTS = "ImageSets/Segmentation"


def _voc_home(root: str | Path | None) -> Path:
    lists = [[f"{_VOC_LISTS}/{split}.txt"] for split in ("train", "val")]
    return find_set("voc", "VOCdevkit/VOC2012", [*lists, ["JPEGImages/"], ["SegmentationClass/"]], root)[2].parent


def _voc(
    home: Path, name: str, split: str, masks: Path, augment: Augment | Crop | None, reading: Reading | None
) -> Data:
    train = _listed(home / _VOC_LISTS / f"{split}.txt", home / "JPEGImages", masks)
    val = _listed(home / _VOC_LISTS / "val.txt", home / "JPEGImages", home / "SegmentationClass")
    files = MaskFiles(ClassList(dict(enumerate(_VOC))), train, val, is_known=True)
    return _loaded(home, files, name, augment, reading)


def _loaded(home: Path, files: MaskFiles, name: str, augment: Augment | Crop | None, reading: Reading | None) -> Data:
    """Load the data from a set's files in the folder ``home``."""
    data = load_masks(files, name, f"'{name}'", augment=augment, reading=reading, mean_and_std=_IMAGENET)
    data.path = home.absolute()
    return data


def ade20k(
    root: str | Path | None = None, augment: Augment | Crop | None = None, reading: Reading | None = None
) -> Data:
    """ADE20K of the scene parsing challenge 2016 (Zhou et al. 2017): 150 classes, "other" is ignored.

    Class names come from ``objectInfo150.txt``. If it is missing, they are numbers.

    Args:
        root: Folder to look in first.
        augment: Augmentation of training batches. None takes flips, and needs a size in ``reading``.
        reading: How the files are read.

    Raises:
        DataError: The set is not found, or a file does not have the expected content.
    """
    parts = [f"{kind}/{split}/" for split in ("training", "validation") for kind in ("images", "annotations")]
    found = find_set("ade20k", "ADEChallengeData2016", [[part] for part in parts], root)
    train, val = (
        [(image, masks / f"{image.stem}.png") for image in images(folder)] for folder, masks in (found[:2], found[2:])
    )
    for folder, pairs in ((found[0], train), (found[2], val)):
        if not pairs:
            raise DataError(f"there is no image in the folder '{folder}'")
    names = {0: "void"} | _ade20k_names(found[0].parent.parent / "objectInfo150.txt")
    files = MaskFiles(ClassList(names), train, val, is_known=True)
    return _loaded(found[0].parent.parent, files, "ade20k", augment, reading)


def _ade20k_names(path: Path) -> dict[int, str]:
    """Return label -> the first of its names."""
    if not path.is_file():
        return {label: str(label) for label in range(1, 151)}
    lines = [line.split("\t") for line in _lines(path)]
    names = {int(line[0]): line[-1].split(",")[0].strip() for line in lines if line[0].strip().isdigit()}
    if sorted(names) != list(range(1, 151)):
        raise DataError(f"'{path}' must name the labels 1 to 150, one per line with tabs between its columns")
    return names


def camvid(
    root: str | Path | None = None, augment: Augment | Crop | None = None, reading: Reading | None = None
) -> Data:
    """CamVid (Brostow et al. 2008), SegNet's split, 11 classes: validates on val, which is one sequence.

    Args:
        root: Folder to look in first.
        augment: Augmentation of training batches. None takes flips.
        reading: How the files are read.

    Raises:
        DataError: The set is not found, or a file does not have the expected content.
    """
    return _camvid("camvid", "val", root, augment, reading)


def camvid_test(
    root: str | Path | None = None, augment: Augment | Crop | None = None, reading: Reading | None = None
) -> Data:
    """CamVid, SegNet's split: validates on test, for the figure to report.

    Arguments and errors are those of :func:`camvid`.
    """
    return _camvid("camvid-test", "test", root, augment, reading)


def _camvid(
    name: str, split: str, root: str | Path | None, augment: Augment | Crop | None, reading: Reading | None
) -> Data:
    home = find_set("camvid", "CamVid", [["train.txt"], ["val.txt"], ["test.txt"], ["train/"], ["trainannot/"]], root)[
        0
    ].parent
    train, val = (_listed(home / f"{part}.txt", home / part, home / f"{part}annot") for part in ("train", split))
    files = MaskFiles(ClassList(dict(enumerate(_CAMVID))), train, val, is_known=True)
    return _loaded(home, files, name, augment, reading)


def _listed(path: Path, folder: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Return the images that a list names, with their masks.

    A line is a name, or a path as in SegNet's lists. Of a path only the name counts.
    """
    there = {image.stem: image for image in (images(folder) if folder.is_dir() else [])}
    names = [Path(line.split()[0]).name for line in _lines(path)]
    stems = [Path(name).stem if Path(name).suffix.lower() in (".png", ".jpg") else name for name in names]
    if not stems:
        raise DataError(f"the list '{path}' names no image")
    return [(there.get(stem, folder / f"{stem}.jpg"), masks / f"{stem}.png") for stem in stems]


def _lines(path: Path) -> Sequence[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None
