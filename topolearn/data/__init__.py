"""Data for training: built-in sets, folders, and a user's own Datasets and DataLoaders."""

from topolearn.data.augment import Augment, Crop
from topolearn.data.base import Data, DataInfo
from topolearn.data.datasets import DatasetData
from topolearn.data.image_data import ImageData
from topolearn.data.load import load_data
from topolearn.data.loaders import LoaderData
from topolearn.data.named_images import DATASETS
from topolearn.data.tensors import TensorData
from topolearn.data.text import TextData, TextFormat

__all__ = [
    "DATASETS",
    "Augment",
    "Crop",
    "Data",
    "DataInfo",
    "DatasetData",
    "ImageData",
    "LoaderData",
    "TensorData",
    "TextData",
    "TextFormat",
    "load_data",
]
