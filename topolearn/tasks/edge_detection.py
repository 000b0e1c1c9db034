"""The F-measures of edge detection, after the Berkeley benchmark (Arbeláez et al. 2011)."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

TOLERANCE = 0.0075
"""How far a detected edge may be from a labelled one, as a share of the image's diagonal; from the benchmark."""

THRESHOLDS = 33
"""Number of thresholds, evenly spaced. The benchmark's code uses 99, which takes three times as long."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@final
class EdgeDetection(Metric):
    """``ods`` and ``ois``: the F-measures at one threshold for the whole set, and at the best one for each image.

    The scores are thinned to ridges one pixel wide (:func:`thinned`). At each threshold, detected
    pixels are matched with labelled ones, one to one, within the tolerance (:func:`matches`). F = 2 P R / (P + R)
    over the pixels of all images. This runs on the CPU and takes about a second per image of 321 x 481: on large
    sets, raise ``evaluate_every``.

    Differences from the benchmark's code:

    - There is one labelling per image, not several. Labelled edges should be a pixel wide.
    - The matching pairs as many pixels as possible. The benchmark minimises the sum of distances plus
      100 tolerances per unmatched pixel, on a graph that it thins out at random. The numbers of
      matches differ by what that loses.
    - Thinning suppresses non-maxima of the scores once, and does not thin each binary map again.
    - F is not interpolated between thresholds.

    Args:
        ignored: The label of pixels that do not count; detections there do not count either. None: all count.
        tolerance: Share of the diagonal.
        thresholds: Number of thresholds, from 1 / (n + 1) to n / (n + 1).
    """

    full_state_update = False
    matched: Tensor
    detected: Tensor
    labelled: Tensor
    best: Tensor

    def __init__(self, ignored: int | None, tolerance: float = TOLERANCE, thresholds: int = THRESHOLDS) -> None:
        super().__init__()
        self.ignored = ignored
        self.tolerance = tolerance
        self.thresholds = [(number + 1) / (thresholds + 1) for number in range(thresholds)]
        # Counts of pixels. `best` holds those at each image's own best threshold: matched, detected, labelled.
        for name, size in (("matched", thresholds), ("detected", thresholds), ("labelled", 1), ("best", 3)):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: (N, 1, H, W) logits, (N, H, W) labels 0 and 1."""
        for scores, labels in zip(logits[:, 0].sigmoid().double().cpu().numpy(), targets.cpu().numpy(), strict=True):
            ridges = thinned(scores)
            if self.ignored is not None:
                ridges[labels == self.ignored] = 0
            truth = labels == 1
            counts = [self._count(ridges >= threshold, truth) for threshold in self.thresholds]
            edges = int(truth.sum())
            table = torch.tensor(counts, device=self.matched.device)
            self.matched += table[:, 0]
            self.detected += table[:, 1]
            self.labelled += edges
            # A tie, as in an image without edges, goes to the threshold with the fewest detections.
            matched, detected = max(counts, key=lambda each: (f_measure(each[0], each[1], edges), -each[1]))
            self.best += torch.tensor([matched, detected, edges], device=self.best.device)

    def _count(self, detected: Mask, truth: Mask) -> tuple[int, int]:
        height, width = truth.shape
        return matches(detected, truth, self.tolerance * (height**2 + width**2) ** 0.5), int(detected.sum())

    def compute(self) -> dict[str, float]:
        """Return ``ods`` and ``ois``."""
        labelled = int(self.labelled)
        ods = max(
            f_measure(matched, detected, labelled)
            for matched, detected in zip(self.matched.tolist(), self.detected.tolist(), strict=True)
        )
        return {"ods": ods, "ois": f_measure(*self.best.tolist())}


def f_measure(matched: int, detected: int, labelled: int) -> float:
    """Return F = 2 P R / (P + R) with P = matched / detected, R = matched / labelled; 0 if nothing matched."""
    return 2 * matched / (detected + labelled) if matched else 0.0


def matches(detected: Mask, truth: Mask, distance: float) -> int:
    """Return how many pixels of two maps (H, W) can be matched one to one, at most ``distance`` apart."""
    # SciPy is only imported to measure edges.
    from scipy.sparse import csr_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import maximum_bipartite_matching  # type: ignore[import-untyped]

    found, known = np.argwhere(detected), np.argwhere(truth)
    if not len(found) or not len(known):
        return 0
    if len(known) < len(found):  # look for pairs around the smaller set
        found, known = known, found
    reach = int(distance)
    steps = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    steps = steps[(steps**2).sum(1) <= distance**2]
    number = np.full((truth.shape[0] + 2 * reach, truth.shape[1] + 2 * reach), -1)
    number[known[:, 0] + reach, known[:, 1] + reach] = np.arange(len(known))
    near = found[:, None] + steps + reach
    others = number[near[..., 0], near[..., 1]]
    rows, _ = np.nonzero(others >= 0)
    pairs = csr_array((np.ones(len(rows), np.int8), (rows, others[others >= 0])), shape=(len(found), len(known)))
    return int((maximum_bipartite_matching(pairs, perm_type="column") >= 0).sum())


def thinned(scores: Array) -> Array:
    """Return scores (H, W) thinned to the ridges of edges: 0 unless a score is the largest across the edge.

    The direction of an edge comes from the second derivatives of the smoothed scores. A pixel is
    compared with the values a pixel away on both sides. This follows structured edge detection (Dollár &
    Zitnick 2015); edge detectors are commonly evaluated with its code.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    triangle = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = ndimage.convolve1d(ndimage.convolve1d(scores, triangle, 0, mode="reflect"), triangle, 1, mode="reflect")
    down, across = np.gradient(smooth)
    down_down = np.gradient(down, axis=0)
    down_across, across_across = np.gradient(across)
    # The scores bend most across an edge, on its ridge and on its slopes. That direction is the axis of the
    # Hessian's eigenvalue of larger magnitude: the lower eigenvalue if the sum of both is negative.
    angle = 0.5 * np.arctan2(2 * down_across, across_across - down_down)
    angle += np.where(across_across + down_down < 0, np.pi / 2, 0)
    step = np.stack([np.sin(angle), np.cos(angle)])
    place = np.mgrid[: scores.shape[0], : scores.shape[1]]
    sides = [ndimage.map_coordinates(scores, place + sign * step, order=1, mode="nearest") for sign in (-1, 1)]
    # A plateau two pixels wide keeps both, because either may be the edge.
    return np.where(scores >= np.maximum(*sides), scores, 0.0)
