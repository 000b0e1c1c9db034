"""A metric against the share of edges removed, from one search: by magnitude, and at random as the control.

From the network as it was when its search ended, learnable edges go one after another. *By magnitude*: the
weakest first, by :func:`topolearn.graph.removal_order`. *At random*: in orders drawn by seeds, each of them one
path from the whole graph on. The network is pruned to what is left, batch statistics are computed anew, nothing is
trained.

- Nodes die on the way, and their edges with them. At each share the fewest edges are removed with which at
  least that share of the learnable edges is gone; what is really gone stands beside what was asked for.
- An edge without which an output would be cut off is passed over, in both orders. So a line ends at one path, and
  where more is asked for, it is repeated.
- Edges of weight 0 are gone from the start, in both orders.
- MaskConnect's edges have weight 1 at every point, whatever its K.
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
from topolearn.data import Data
from topolearn.data.seeds import generator, global_state_kept, mix
from topolearn.device import find_device
from topolearn.drawing.curve import CurvePanel, Line, Mark, draw_curves
from topolearn.errors import OptionError, TrainingError, shown
from topolearn.files import make_folder, write_atomically
from topolearn.graph import Topology, removal_order
from topolearn.graph.price import Alive
from topolearn.graph.removal import removable, removed_at, removed_share
from topolearn.learners import EdgeLearner
from topolearn.report.tables import NumberText, Table, is_share, metric_heading
from topolearn.runs.searched import SearchedRun, load_searched
from topolearn.studies.comparison import GraphSize, mean_and_deviation
from topolearn.training import phases
from topolearn.training.memory import kept_memory
from topolearn.training.progress import Reporter

MARKDOWN, CSV, PICTURE = "sweep.md", "sweep.csv", "sweep.svg"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
SEEDS = (0, 1, 2)

MAGNITUDE, RANDOM, OWN = "by magnitude", "at random", "the learner's choice"


@dataclass(frozen=True)
class SweepPoint:
    """One pruned network, in numbers.

    Attributes:
        order: How its edges were chosen: by magnitude, at random, or by the learner itself.
        seed: Of a random order.
        asked: Share of the learnable edges that was to go; None for the learner's choice.
        removed: Share that is gone.
        metrics: On the validation data.
        size: Of the network.
    """

    order: str
    seed: int | None
    asked: float | None
    removed: float
    metrics: Mapping[str, float]
    size: GraphSize


@dataclass(frozen=True)
class Sweep:
    """What :func:`sweep` found.

    Attributes:
        name: The searched graph and the learner.
        searched: Size of the searched graph.
        learnable: Number of its learnable edges.
        shares: What was asked for, ascending.
        seeds: Of the random orders.
        recalibrated: Whether batch statistics were computed anew at every point.
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
        """Names of the metrics, the one that is drawn first."""
        return tuple(name for name in self.rows[0].metrics if name != "loss")

    def at(self, order: str, asked: float | None) -> tuple[SweepPoint, ...]:
        """The points of one order and share: one per seed where it is random."""
        return tuple(point for point in self.rows if (point.order, point.asked) == (order, asked))

    def table(self) -> Table:
        """A row per share and order; random ones as mean ± sample standard deviation.

        Shares at which nothing more is gone than at the one before are left out.
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
            f"Of {self.learnable:,} learnable edges, those that died with their nodes included; nothing was trained"
            f" after the search, batch statistics were {'' if self.recalibrated else 'not '}computed anew. At random:"
            f" {statistic} {seeds}. An edge without which an output would be cut off is never removed."
        )

    def csv(self) -> str:
        """A row per point, in plain numbers."""
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
        """Draw the first metric, and the share of multiply-accumulates that is left, against the share removed.

        Args:
            path: An SVG, PNG or PDF file; appears whole or not at all.
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
        """One quantity of all points."""
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
) -> Sweep:
    """Prune a run's network as it was at the end of its search to ever fewer edges; see the module's docstring.

    Args:
        run_dir: The folder of a run whose search has ended.
        out: Folder for sweep.md, sweep.csv and sweep.svg; None writes nothing.
        settings: Option of the learner -> YAML value; what its own choice of edges depends on.
        shares: Of the learnable edges to remove, 0 to 1; default: :data:`SHARES`.
        seeds: Of the random orders; default: 0, 1, 2.
        recalibrate: Whether to compute batch statistics anew, at every point, from up to 100 training batches.
        data: As for :func:`topolearn.fit`; None: the run's own.
        data_root: Where data sets are looked for.
        device: ``auto`` is CUDA where there is one.
        quiet: Show no progress.

    Returns:
        The points; the same ones for the same arguments.

    Raises:
        CheckpointError: No such run, or one without a search.
        DataError: The run's data cannot be found, or ``data`` are for another network.
        OptionError: An unknown option, or shares or seeds that are none.
        TrainingError: The search ended with all paths to an output at weight 0.
    """
    wanted = _shares(shares)
    if not seeds or len(set(seeds)) < len(seeds):
        raise OptionError(f"'seeds' is {shown(seeds)}, but must hold at least one seed, and each once")
    where = find_device(device)
    with global_state_kept(), kept_memory() if where.type == "cpu" else contextlib.nullcontext():
        run = load_searched(run_dir, settings)
        judge = _Judge(run, run.data(data, data_root).to(where), where, recalibrate, Reporter(0, quiet=quiet))
        run.net.to(where)
        graph, learner, whole = run.graph, run.learner, _whole(run, Path(run_dir))
        if out is not None:
            make_folder(Path(out))  # where that fails, nothing has been computed in vain
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


def _shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Ascending, each once."""
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise OptionError(f"'shares' is {shown(shares)}, but must hold shares from 0 to 1")
    return tuple(sorted({float(share) for share in shares}))


def _whole(run: SearchedRun, folder: Path) -> Topology:
    """What the orders start from: every edge that is not 0."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a path that was brought back
            return run.learner.without(())
    except UserWarning:
        raise TrainingError(
            f"the search in {folder} ended with all paths to an output at weight 0, so there is nothing to remove;"
            " search with a weaker penalty"
        ) from None


def _orders(
    learner: EdgeLearner, whole: Topology, seeds: Sequence[int]
) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
    """Name, seed and edges of every order; without edges that are gone already, which would cost nothing."""
    ranked = removal_order(learner.graph, learner.edge_values().detach().tolist())
    present = tuple(i for i in ranked if whole.keep[i])
    yield MAGNITUDE, None, present
    places = sorted(present)  # the same random orders whatever was learned
    for seed in seeds:
        drawn = torch.randperm(len(places), generator=generator("sweep", seed)).tolist()
        yield RANDOM, seed, tuple(places[place] for place in drawn)


@dataclass
class _Judge:
    """Measures pruned networks, each once.

    Attributes:
        run: Whose network to prune.
        data: On ``device``.
        device: Where to run.
        recalibrate: Whether to compute batch statistics anew.
        reporter: Hears of every point.
    """

    run: SearchedRun
    data: Data
    device: torch.device
    recalibrate: bool
    reporter: Reporter
    known: dict[Any, tuple[dict[str, float], GraphSize]] = field(default_factory=dict)

    def point(self, order: str, seed: int | None, asked: float | None, topology: Topology) -> SweepPoint:
        """What the network that is pruned to a closed topology gives."""
        edges = Alive.of(self.run.graph, topology.keep).edges
        # Orders start alike, and repeat themselves where they end.
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
