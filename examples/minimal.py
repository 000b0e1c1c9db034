"""Learn the wiring of a small network with your own training loop, prune it, export it.

python examples/minimal.py
"""

import torch
from torch.nn.functional import cross_entropy

import topolearn

GRAPH = """
topolearn: 1
name: minimal
inputs: {image: [1, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 16}
  block[1..6]: {op: resnet.basic, channels: 16, aggregate: mean}
  head: {op: classifier, classes: 10}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "block[1..6]", head], learnable: true}
outputs: [head]
"""


def main(epochs: int = 2) -> None:
    """Train, prune, export."""
    torch.manual_seed(0)
    data = topolearn.load_data("digits")
    graph = topolearn.loads(GRAPH)

    learner = topolearn.learners.MaskConnect(graph, fan_in=2)
    net = topolearn.compile(graph, learner)
    optimizers = topolearn.optimizers(net, lr=0.1, weight_decay=1e-4)  # one for the weights, one for the masks
    with topolearn.kept_memory():  # as `fit` does: this makes a search step faster on a CPU
        for epoch in range(epochs):
            net.train()
            for images, targets in data.train_batches(64, seed=0, epoch=epoch):
                loss = cross_entropy(net(images), targets) + learner.penalty()
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
            net.eval()
            with torch.no_grad():
                right = sum((net(x).argmax(1) == y).sum().item() for x, y in data.val_batches(64))
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {right / data.val_size:.3f}")

    small = topolearn.prune(net)
    print(graph, "->", small.graph)
    print("done:", topolearn.export_onnx(small, "minimal.onnx"))


if __name__ == "__main__":
    main()
