"""Train on a folder of your own images, one subfolder per class, then predict new images.

python examples/own_images.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import topolearn

GRAPH = """
topolearn: 1
name: own-images
inputs: {image: [3, 32, 32]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 16, stride: 2}
  block[1..4]: {op: resnet.basic, channels: 16, aggregate: mean}
  deep[1..4]: {op: resnet.basic, channels: 32, stride: [2, 1, 1, 1], aggregate: mean}
  head: {op: classifier, classes: CLASSES}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "block[1..4]", "deep[1..4]"], op: align, learnable: true}
  - {from: deep4, to: head}
outputs: [head]
"""


def make_images(folder: Path) -> None:
    """Make two classes of images, warm and cold noise, if you give no folder."""
    numbers = np.random.default_rng(0)
    for name, tint in (("warm", (90, 40, 0)), ("cold", (0, 40, 90))):
        (folder / name).mkdir(parents=True)
        for index in range(40):
            noise = numbers.integers(0, 160, (48, 64, 3)) + np.array(tint)
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{index}.png")


def main() -> None:
    """Train, prune, predict."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = Path("images")
        make_images(folder)
    classes = sum(path.is_dir() for path in folder.iterdir())

    graph = topolearn.loads(GRAPH.replace("CLASSES", str(classes)))
    result = topolearn.fit(graph, "maskconnect", folder, epochs=4, fan_in=2, batch_size=16, out="runs/own-images")
    print(result.searched, "->", result.graph)

    new = sorted(folder.rglob("*.png"))[:3]
    predictions = topolearn.prediction.predict("runs/own-images", new, "predictions")
    for prediction in predictions.images:
        name, probability = prediction.shares[0]
        print(f"{prediction.image}: {name}, {probability:.0%}")
    print("done: predictions/predictions.csv")


if __name__ == "__main__":
    main()
