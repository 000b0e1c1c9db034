"""Label every pixel: a U-Net with learned skip connections, on a folder of images and masks.

python examples/segmentation.py [FOLDER]      FOLDER/images/*.png and FOLDER/masks/*.png of 0 and 255
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import topolearn

UNET = """
topolearn: 1
name: unet
task: segmentation
inputs: {image: [3, 64, 64]}
nodes:
  down1: {op: conv_bn_relu, out_channels: 8}
  down2: {op: conv_bn_relu, out_channels: 16, stride: 2}
  down3: {op: conv_bn_relu, out_channels: 32, stride: 2}
  up2: {op: conv_bn_relu, out_channels: 16, input: {channels: 16, stride: 2}}
  up1: {op: conv_bn_relu, out_channels: 8, input: {channels: 8, stride: 1}}
  head: {op: segmentation_head, classes: 2}
edges:
  - {connect: chain, nodes: [image, down1, down2, down3]}
  - {op: conv_resize, learnable: true, into: {up2: [down1, down2, down3], up1: [down1, down2, down3, up2]}}
  - {from: up1, to: head}
outputs: [head]
"""


def make_scenes(folder: Path) -> None:
    """Make scenes if you give no folder: bright boxes on noise, white in the mask."""
    numbers = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(30):
        image, mask = numbers.integers(0, 120, (64, 64, 3)), np.zeros((64, 64))
        top, left = numbers.integers(0, 32, 2)
        image[top : top + 24, left : left + 24] += 100
        mask[top : top + 24, left : left + 24] = 255
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{index}.png")


def main() -> None:
    """Search, retrain, predict."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = Path("scenes")
        make_scenes(folder)
    graph = topolearn.loads(UNET)
    result = topolearn.fit(graph, "sparsemask", folder, epochs=6, batch_size=8, out="runs/unet")
    print(result.searched, "->", result.graph)
    print({name: round(value, 3) for name, value in result.metrics.items()})

    topolearn.prediction.predict("runs/unet", sorted((folder / "images").iterdir())[:3], "predictions")
    print("done: predictions/masks, predictions/overlays")


if __name__ == "__main__":
    main()
