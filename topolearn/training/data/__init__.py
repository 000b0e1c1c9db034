"""Data for training: built-in sets, folders, and a user's own Datasets and DataLoaders."""

from topolearn.training.data.augment import Augment
from topolearn.training.data.base import BINARY, DENSE, Data, DataInfo
from topolearn.training.data.builtin import DATASETS
from topolearn.training.data.crop import Crop
from topolearn.training.data.datasets import DatasetData
from topolearn.training.data.load import load_data
from topolearn.training.data.loaders import LoaderData
from topolearn.training.data.tensors import TensorData

__all__ = [
    "BINARY",
    "DATASETS",
    "DENSE",
    "Augment",
    "Crop",
    "Data",
    "DataInfo",
    "DatasetData",
    "LoaderData",
    "TensorData",
    "load_data",
]
