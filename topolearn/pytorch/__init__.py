"""Networks as files for PyTorch: torch.export's archive, or readable source code; each is compared with the network."""

from topolearn.pytorch.archive import export_pt2
from topolearn.pytorch.checked import PyTorchReport
from topolearn.pytorch.source_file import export_torch

__all__ = ["PyTorchReport", "export_pt2", "export_torch"]
