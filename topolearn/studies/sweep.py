"""Measure a metric against the share of edges removed from one search: by magnitude, and at random as the control.

The sweep starts from the network at the end of its search, and removes learnable edges one after another. *By
magnitude* removes the weakest first, by :func:`topolearn.graph.removal_order`. *At random* removes them in orders
drawn by seeds; each order is one path from the whole graph on. At each share the network is pruned to what is left,
and its batch statistics are recomputed. Nothing is trained.

- A node can die on the way, and its edges go with it. Each share removes as few edges as possible so that at least
  that share of the learnable edges is gone. The table shows the share removed beside the share asked for.
- Both orders skip an edge if an output would be cut off without it. So a line ends at one path, and larger shares
  repeat that point.
- In both orders, edges with weight 0 are gone from the start.
- MaskConnect's edges have weight 1 at every point, for every K.
"""

from __future__ import annotations

import contextlib
import csv
import io
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from topolearn.compiler import prune
from topolearn.device import find_device
from topolearn.drawing.curve import CurvePanel, Line, Mark, draw_curves
from topolearn.errors import OptionError, TrainingError, shown
from topolearn.files import check_folder, make_folder, write_atomically
from topolearn.graph import Topology, removal_order
from topolearn.graph.price import Alive
from topolearn.graph.removal import removable, removed_at, removed_share
from topolearn.learners import EdgeLearner
from topolearn.report.tables import NumberText, Table, is_share, metric_heading
from topolearn.runs.folder import SWEEP, holds_run
from topolearn.runs.searched import SearchedRun, load_searched
from topolearn.samples import Data
from topolearn.samples.seeds import generator, global_state_kept, mix
from topolearn.studies.comparison import GraphSize, mean_and_deviation
from topolearn.tasks import Loss, Metric
from topolearn.training import phases
from topolearn.training.memory import kept_memory
from topolearn.training.progress import Reporter

MARKDOWN, CSV, PICTURE = "sweep.md", SWEEP, "sweep.svg"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
SEEDS = (0, 1, 2)

MAGNITUDE, RANDOM, OWN = "by magnitude", "at random", "the learner's choice"


@dataclass(frozen=True)
class SweepPoint:
    """The figures of one pruned network.

    Attributes:
        order: How its edges were chosen: by magnitude, at random, or by the learner itself.
        seed: Seed of a random order; else None.
        asked: Share of the learnable edges to remove; None for the learner's choice.
        removed: Share that is gone.
        metrics: Metrics on the validation data.
        size: Size of the network.
    """

    order: str
    seed: int | None
    asked: float | None
    removed: float
    metrics: Mapping[str, float]
    size: GraphSize


@dataclass(frozen=True)
class Sweep:
    """The result of :func:`sweep`.

    Attributes:
        name: The searched graph and the learner.
        searched: Size of the searched graph.
        learnable: Number of its learnable edges.
        shares: The shares asked for, ascending.
        seeds: Seeds of the random orders.
        recalibrated: Whether batch statistics were recomputed at every point.
        rows: All points: by magnitude, at random seed by seed, the learner's choice.
    """

    name: str
    searched: GraphSize
    learnable: int
    shares: tuple[float, ...]
    seeds: tuple[int, ...]
    recalibrated: bool
    rows: tuple[SweepPoint, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, or ``loss`` if there is none; the first one is drawn."""
        return tuple(name for name in self.rows[0].metrics if name != "loss") or ("loss",)

    def at(self, order: str, asked: float | None) -> tuple[SweepPoint, ...]:
        """Return the points of one order and share: one per seed for the random orders."""
        return tuple(point for point in self.rows if (point.order, point.asked) == (order, asked))

    def table(self) -> Table:
        """Return a table with a row per share and order; random orders as mean ± sample standard deviation.

        A share at which no more edges are gone than at the one before is left out.
        """
        columns = ("order", "asked, %", "removed, %", *map(metric_heading, self.metrics))
        rows, before = list[tuple[Any, ...]](), list[float]()
        for share in self.shares:
            removed = [point.removed for point in self.rows if point.asked == share]
            if removed != before:
                rows += [self._cells(order, share) for order in (MAGNITUDE, RANDOM)]
            before = removed
        return Table(
            (*columns, "million MACs", "parameters", "edges left", "nodes left"),
            (*rows, self._cells(OWN, None)),
            title=self.name,
            note=self._note(),
        )

    def _cells(self, order: str, asked: float | None) -> tuple[Any, ...]:
        points = self.at(order, asked)
        sizes = [point.size for point in points]

        def mean(values: Sequence[float], spec: str) -> NumberText:
            return NumberText(f"{statistics.mean(values):{spec}}")

        return (
            order,
            None if asked is None else NumberText(f"{100 * asked:g}"),
            mean([100 * point.removed for point in points], ".1f"),
            *(mean_and_deviation(name, [point.metrics[name] for point in points]) for name in self.metrics),
            mean([size.macs / 1e6 for size in sizes], ",.2f"),
            mean([size.parameters for size in sizes], ",.0f"),
            mean([size.edges for size in sizes], ",.1f" if len(sizes) > 1 else ",d"),
            mean([size.nodes for size in sizes], ",.1f" if len(sizes) > 1 else ",d"),
        )

    def _note(self) -> str:
        several = len(self.seeds) > 1
        seeds = ", ".join(map(str, self.seeds))
        statistic = "mean ± sample standard deviation over orders drawn by seeds" if several else "an order by seed"
        return (
            f"Shares of {self.learnable:,} learnable edges, including those that died with their nodes. Nothing was"
            f" trained after the search; batch statistics were {'' if self.recalibrated else 'not '}recomputed. At"
            f" random: {statistic} {seeds}. An edge is never removed if an output would be cut off without it."
        )

    def csv(self) -> str:
        """Return the points as CSV: one row each, in plain numbers."""
        text = io.StringIO()
        records = [
            {
                "order": point.order,
                "seed": point.seed,
                "asked": point.asked,
                "removed": point.removed,
                **point.metrics,
                **vars(point.size),
            }
            for point in self.rows
        ]
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def draw(self, path: Path | str) -> None:
        """Draw the first metric, and the share of multiply-accumulates left, against the share of edges removed.

        Args:
            path: An SVG, PNG or PDF file; it appears whole or not at all.
        """
        metric, whole = self.metrics[0], self.searched.macs
        draw_curves(
            [
                self._panel(metric, lambda point: point.metrics[metric], is_share=is_share(metric)),
                self._panel("MACs left", lambda point: point.size.macs / whole, height=0.4),
            ],
            path,
            title=self.name,
            below=f"share of the {self.learnable:,} learnable edges removed",
        )

    def _panel(
        self, label: str, value: Callable[[SweepPoint], float], height: float = 1.0, is_share: bool = True
    ) -> CurvePanel:
        """Return the panel of one quantity, for all points."""
        lines = (self._line(MAGNITUDE, value), self._line(RANDOM, value))
        (own,) = self.at(OWN, None)
        return CurvePanel(label, lines, Mark(OWN, own.removed, value(own)), height, is_share)

    def _line(self, order: str, value: Callable[[SweepPoint], float]) -> Line:
        groups = [self.at(order, share) for share in self.shares]
        several = len(groups[0]) > 1
        return Line(
            f"{order}, mean ± std" if several else order,
            tuple(statistics.mean(point.removed for point in group) for group in groups),
            tuple(statistics.mean(map(value, group)) for group in groups),
            tuple(statistics.stdev(map(value, group)) for group in groups) if several else None,
        )

    def save(self, folder: str | Path) -> None:
        """Write sweep.md, sweep.csv and sweep.svg; each appears whole or not at all."""
        target = Path(folder)
        make_folder(target)
        write_atomically(target / MARKDOWN, f"{self.table().markdown()}\n".encode())
        write_atomically(target / CSV, self.csv().encode())
        self.draw(target / PICTURE)


def sweep(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = SEEDS,
    recalibrate: bool = True,
    data: Any = None,
    data_root: str | Path | None = None,
    device: str | torch.device = "auto",
    quiet: bool = False,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Sweep:
    """Prune a run's network at the end of its search to fewer and fewer edges; see the module's docstring.

    Args:
        run_dir: Folder of a run that has ended its search.
        out: Folder for sweep.md, sweep.csv and sweep.svg; None writes nothing.
        settings: Learner option -> YAML value; options that the learner's own choice of edges depends on.
        shares: Shares of the learnable edges to remove, 0 to 1; default: :data:`SHARES`.
        seeds: Seeds of the random orders; default: 0, 1, 2.
        recalibrate: Whether to recompute batch statistics at every point, from up to 100 training batches.
        data: Data, as in :func:`topolearn.fit`; None for the run's own.
        data_root: Folder in which data sets are looked for.
        device: The device; ``auto`` is CUDA if available.
        quiet: Whether to hide progress.
        loss: As in :func:`topolearn.fit`. Give it if the run had one.
        metrics: As in :func:`topolearn.fit`; the first one is drawn.

    Returns:
        The points; equal arguments give equal points.

    Raises:
        CheckpointError: There is no such run, or it has no search.
        DataError: The run's data cannot be found, or ``data`` are for another network.
        OptionError: An unknown option, invalid shares or seeds, or ``out`` holds other files.
        TrainingError: The search ended with all paths to an output at weight 0.
    """
    wanted = _shares(shares)
    if not _is_list(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise OptionError(f"'seeds' is {shown(seeds)}, but must hold whole numbers, 0 or more")
    if not seeds or len(set(seeds)) < len(seeds):
        raise OptionError(f"'seeds' is {shown(seeds)}, but must hold at least one seed, and each once")
    where = find_device(device)
    if out is not None and not holds_run(Path(out)) and not (Path(out) / MARKDOWN).is_file():
        check_folder(Path(out))
    with global_state_kept(), kept_memory() if where.type == "cpu" else contextlib.nullcontext():
        run = load_searched(run_dir, settings, loss=loss, metrics=metrics)
        judge = _Judge(run, run.data(data, data_root).to(where), where, recalibrate, Reporter(0, quiet=quiet))
        run.net.to(where)
        graph, learner, whole = run.graph, run.learner, _whole(run, Path(run_dir))
        if out is not None:
            make_folder(Path(out))  # before the work, so that an error here costs no time
        rows: list[SweepPoint] = []
        for order, seed, edges in _orders(learner, whole, seeds):
            able = removable(graph, whole.keep, edges)
            for share in wanted:
                topology = learner.without(removed_at(graph, whole.keep, able, share))
                rows.append(judge.point(order, seed, share, topology))
        rows.append(judge.point(OWN, None, None, learner.topology()))
    found = Sweep(
        name=f"{graph.name}: {run.config['learner']}",
        searched=GraphSize.of(graph),
        learnable=sum(map(len, graph.candidates.values())),
        shares=wanted,
        seeds=tuple(seeds),
        recalibrated=recalibrate,
        rows=tuple(rows),
    )
    if out is not None:
        found.save(out)
    return found


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def _shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return the shares in ascending order, each once."""
    if (
        not _is_list(shares)
        or not shares
        or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)
    ):
        raise OptionError(f"'shares' is {shown(shares)}, but must hold shares from 0 to 1")
    return tuple(sorted({float(share) for share in shares}))


def _whole(run: SearchedRun, folder: Path) -> Topology:
    """Return the topology that the orders start from: every edge with a weight other than 0."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # the warning that a path was restored
            return run.learner.without(())
    except UserWarning:
        raise TrainingError(
            f"the search in {folder} ended with all paths to an output at weight 0, so there is nothing to remove;"
            " search with a weaker penalty"
        ) from None


def _orders(
    learner: EdgeLearner, whole: Topology, seeds: Sequence[int]
) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
    """Yield name, seed and edges of every order, without the edges that are gone from the start."""
    ranked = removal_order(learner.graph, learner.edge_values().detach().tolist())
    present = tuple(i for i in ranked if whole.keep[i])
    yield MAGNITUDE, None, present
    places = sorted(present)  # so that random orders do not depend on what was learned
    for seed in seeds:
        drawn = torch.randperm(len(places), generator=generator("sweep", seed)).tolist()
        yield RANDOM, seed, tuple(places[place] for place in drawn)


@dataclass
class _Judge:
    """Measures pruned networks, each only once.

    Attributes:
        run: The run with the network to prune.
        data: Data on ``device``.
        device: The device to run on.
        recalibrate: Whether to recompute batch statistics.
        reporter: Prints a line for every point.
    """

    run: SearchedRun
    data: Data
    device: torch.device
    recalibrate: bool
    reporter: Reporter
    known: dict[Any, tuple[dict[str, float], GraphSize]] = field(default_factory=dict)

    def point(self, order: str, seed: int | None, asked: float | None, topology: Topology) -> SweepPoint:
        """Return the point of the network that is pruned to a closed topology."""
        edges = Alive.of(self.run.graph, topology.keep).edges
        # Orders start with the same network, and repeat the last one at their end.
        key = edges, tuple(topology.weights[i] for i in edges)
        if key not in self.known:
            self.known[key] = self._measure(topology)
        metrics, size = self.known[key]
        point = SweepPoint(order, seed, asked, removed_share(self.run.graph, topology.keep), metrics, size)
        words = [order if seed is None else f"{order}, seed {seed}", f"{point.removed:.1%} removed"]
        self.reporter.say("  ".join([*words, *(f"{name} {value:.4g}" for name, value in metrics.items())]))
        return point

    def _measure(self, topology: Topology) -> tuple[dict[str, float], GraphSize]:
        net = prune(self.run.net, topology)
        if self.recalibrate:
            seed = mix("recalibrate", self.run.config.get("seed", 0))
            phases.recalibrate(net, self.data, self.run.config["batch_size"], seed)
        return self.run.evaluate(net, self.data, self.device), GraphSize.of(net.graph)
