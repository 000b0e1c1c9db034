"""Time the step of a segmentation network: search by reference interpreter and compiler, and the learned network.

    python -m benchmarks.segmentation [--graph fdn-mobilenetv2-voc] [--final sparsemask-mobilenetv2-voc] [--size 513]

A search step is forward (every gate noisy), backward, and SGD on the weights and on SparseMask's gates. The learned
network has no gates. The backbone starts from random weights. It is also timed alone, because no compiler pass over the
decoder can make that part faster. Prints the median time, its ratio to the reference interpreter, and the peak memory
of a process that runs only this variant.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from benchmarks.side_by_side import Subject, compare_steps
from topolearn.ops import Shape

VARIANTS = ("search, reference", "search", "all edges, no gates", "learned", "backbone alone")


class Features(nn.Module):
    """A backbone whose features become one vector per image."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([feature.mean((2, 3)) for feature in self.backbone(images).values()], dim=1)


def build(variant: str, args: argparse.Namespace) -> Subject:
    """Build one variant."""
    graph = topolearn.load_graph(args.final if variant == "learned" else args.graph)
    learner = topolearn.learners.SparseMask(graph) if variant.startswith("search") else None
    net = topolearn.compile(graph, learner, reference=variant.endswith("reference"))
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    images = torch.randn(args.batch, 3, args.size, args.size)
    if variant == "backbone alone":
        return Subject(Features(net.nodes["backbone"]), None, images, torch.zeros(()), loss_of=lambda out, _: out.sum())
    targets = torch.randint(shape.channels, (args.batch, args.size, args.size))
    return Subject(net, learner, images, targets, full_size_loss)


def full_size_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of logits that are resized to the labels."""
    return F.cross_entropy(F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=True), targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="fdn-mobilenetv2-voc")
    parser.add_argument("--final", default="sparsemask-mobilenetv2-voc")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=513)
    compare_steps(
        parser,
        VARIANTS,
        build,
        lambda args: f"{args.graph} and {args.final}, batch {args.batch}, {args.size} x {args.size}",
        {"ratio to the reference": VARIANTS[0]},
    )


if __name__ == "__main__":
    main()
