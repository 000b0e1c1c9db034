"""Make a network that you have smaller: lift it, search under a budget, export it.

python examples/shrink.py
"""

import torch
from torch.nn.functional import interpolate
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

import topolearn


def pictures() -> tuple[TensorDataset, TensorDataset]:
    """Return the digits as colour images of 32 x 32 pixels; put your own Datasets here."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images, labels = interpolate(grey, size=32).expand(-1, 3, -1, -1), torch.tensor(digits.target)
    return TensorDataset(images[:512], labels[:512]), TensorDataset(images[-256:], labels[-256:])


def main() -> None:
    """Train, lift, search, export."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10)  # put a network that you have trained here
    net = topolearn.lift(model, size=32)  # computes what the model computes, or fails

    result = topolearn.fit(
        net,
        "continuous",
        pictures(),
        budget={"macs": 0.7},  # of the multiply-accumulates that it has now
        epochs=2,
        batch_size=64,
        lr=0.01,
        out="runs/shrink",
    )
    gone = sorted(set(result.searched.nodes) - set(result.graph.nodes))
    print(f"{result.searched.cost.macs:,} -> {result.graph.cost.macs:,} multiply-accumulates; gone: {', '.join(gone)}")
    print("done:", topolearn.export_onnx(result.model, "small.onnx"))


if __name__ == "__main__":
    main()
