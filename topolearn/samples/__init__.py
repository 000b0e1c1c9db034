"""What training reads: batches, seeds and augmentation, from your own Datasets, DataLoaders or tensors."""

from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data, DataInfo
from topolearn.samples.datasets import DatasetData
from topolearn.samples.image_data import ImageData
from topolearn.samples.loaders import LoaderData
from topolearn.samples.tensors import TensorData

__all__ = ["Augment", "Crop", "Data", "DataInfo", "DatasetData", "ImageData", "LoaderData", "TensorData"]
