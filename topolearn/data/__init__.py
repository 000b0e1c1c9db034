"""Data for training: built-in sets, folders, text, and your own Datasets and DataLoaders."""

from topolearn.data.load import load_data
from topolearn.data.named_images import DATASETS
from topolearn.data.text import TextData, TextFormat
from topolearn.samples import Augment, Crop, Data, DataInfo, DatasetData, ImageData, LoaderData, TensorData

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
