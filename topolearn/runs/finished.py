"""What a finished run says of itself, without its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.format import load_graph
from topolearn.graph import Graph
from topolearn.graph.price import Spent
from topolearn.report.tables import Change, Table, compare, metric_spec
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG, GRAPH, SEARCHED
from topolearn.runs.history import read_closing
from topolearn.samples import DataInfo

if TYPE_CHECKING:
    from topolearn.onnx import Latency


@dataclass(repr=False, kw_only=True)
class FinishedRun:
    """What a finished run says of itself, without its network; it prints as the closing table.

    Attributes:
        graph: The learned, pruned graph.
        searched: The graph that was searched.
        history: One record per epoch, and one of phase ``result`` with the closing metrics.
        metrics: Metrics of the final network on the validation data.
        searched_metrics: Metrics of the network at the end of the search, before fine-tuning; empty without a search.
        one_level_params: Parameters that pruning by "no outgoing edge" alone would leave; see
            :func:`topolearn.graph.one_level_params`.
        info: The data set's description.
        given_metrics: Metrics of the trained network that the run was given, before any training; empty if the run
            began with random weights or a new last layer.
        removed_metrics: Metrics right after blocks were removed by their scores, before fine-tuning; empty for learners
            that do not score.
        spent: What the learner's budget allowed and what was reached; None without a budget.
        per_class: For segmentation: one row per class for the final network, with ``class``, ``iou``, ``accuracy``
            and ``pixels`` (None for values without a pixel to measure), as in classes.csv. Otherwise empty.
        notes: Notes on the data: what was skipped or converted.
        folder: The folder that the run was written to.
        config: The run's settings, as in config.yaml.
    """

    graph: Graph
    searched: Graph
    history: list[dict[str, Any]]
    metrics: dict[str, float]
    searched_metrics: dict[str, float]
    one_level_params: int
    info: DataInfo
    given_metrics: dict[str, float] = field(default_factory=dict)
    removed_metrics: dict[str, float] = field(default_factory=dict)
    spent: Spent | None = None
    per_class: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().plain()

    def _repr_html_(self) -> str:
        """Show the closing table and the learned graph in a notebook."""
        from topolearn.drawing import svg

        return f"{self.table().html()}\n{svg(self.graph, self.searched)}"

    def table(self, times: tuple[Latency, Latency] | None = None) -> Table:
        """Return the closing table: metrics, parameters, MACs, edges, nodes and latency, given and final.

        Args:
            times: Latency in ONNX Runtime of the searched graph with all its edges, and of the learned network.
        """
        on_the_way = self.removed_metrics or self.searched_metrics
        was, now, one_level = self.searched.cost, self.graph.cost, self.one_level_params
        changes = [
            Change(
                name,
                self.given_metrics.get(name),
                value,
                metric_spec(name) if abs(value) <= 1 else ".4f",  # above 1, it is no share
                between=on_the_way.get(name),
            )
            for name, value in self.metrics.items()
            if name != "loss" or len(self.metrics) == 1
        ]
        changes += [
            Change("parameters", was.params, now.params),
            *([] if one_level == now.params else [Change("parameters, one-level rule", was.params, one_level)]),
            Change("MACs", was.macs, now.macs),
            Change("edges", len(self.searched.edges), len(self.graph.edges)),
            Change("nodes", len(self.searched.nodes), len(self.graph.nodes)),
        ]
        if self.spent is not None:
            changes += _budget(self.spent)
        if times is not None:
            name = f"ONNX Runtime, batch {times[0].batch}, median (quartiles)"
            before, after = times
            quartiles = before.quartiles, after.quartiles
            changes.append(Change(name, before.p50, after.p50, ".3f", " ms", quartiles=quartiles))
        title = f"{self.searched.name}: {self.config['learner']}" if self.config else self.searched.name
        between = "as removed" if self.removed_metrics else "end of search"
        note = self._unchanged() or self._starting_chain() or self._fewer()
        return compare(changes, title=title, note=note, between=between)

    def _unchanged(self) -> str | None:
        """Return what to do if the search removed nothing; None if it removed something."""
        if not (self.removed_metrics or self.searched_metrics) or len(self.graph.edges) < len(self.searched.edges):
            return None
        known = self.config.get("learner_options", {})
        hints = {
            "budget": "a smaller budget" if self.spent else "a budget",
            "threshold": "a threshold",
            "fan_in": "a smaller fan_in",
        }
        given = " or ".join(text for name, text in hints.items() if name in known)
        # A penalty moves weights below a threshold above 0 in time.
        longer = ", or train longer" if known.get("penalty_strength") and known.get("threshold") else ""
        return f"nothing was removed{given and f': give {given}'}{longer}"

    def _starting_chain(self) -> str | None:
        """Return what to do if exactly those learnable edges were kept that did not start at 0; None otherwise."""
        pairs = {(edge.src, edge.dst) for edge in self.graph.edges}
        learnable = [edge for edge in self.searched.edges if edge.learnable]
        started = [edge.weight != 0 for edge in learnable]
        if (
            not self.searched_metrics
            or all(started)
            or started != [(edge.src, edge.dst) in pairs for edge in learnable]
        ):
            return None
        penalised = self.config.get("learner_options", {}).get("penalty_strength")
        advice = (
            "; to let the others grow, give penalty_strength 0 and threshold 0, or train longer" if penalised else ""
        )
        return f"exactly the edges that did not start at 0 were kept{advice}"

    def _fewer(self) -> str | None:
        """Return what to do if nodes keep fewer edges than ``keep`` allows, with a threshold; None otherwise."""
        known = self.config.get("learner_options", {})
        keep = known.get("keep")
        if not keep or not known.get("threshold"):
            return None
        pairs = {(edge.src, edge.dst) for edge in self.graph.edges}
        chosen = {
            node: [(self.searched.edges[i].src, node) in pairs for i in candidates]
            for node, candidates in self.searched.candidates.items()
            if node in self.graph.nodes
        }
        fewer = sum(sum(kept) < min(keep, len(kept)) for kept in chosen.values())
        if not fewer:
            return None
        return f"{fewer:,} nodes keep fewer than {keep} edges; with threshold 0, the {keep} largest stay"

    def draw(self, path: str | Path) -> None:
        """Draw the learned graph within the searched one, to an SVG, PNG or PDF file."""
        from topolearn.drawing import draw

        draw(self.graph, path, searched=self.searched)


def _budget(spent: Spent) -> list[Change]:
    """Return the rows of a budget: what it allowed, and what was reached unless the table has it already."""
    counted = {"macs": "MACs", "params": "parameters"}
    if spent.kind in counted:
        return [Change(f"{counted[spent.kind]}, budget", round(spent.full), round(spent.allowed))]
    return [
        Change("measured node by node", spent.full, spent.reached, ".3f", " ms"),
        Change("measured node by node, budget", spent.full, spent.allowed, ".3f", " ms"),
    ]


def read_finished(folder: str | Path) -> FinishedRun:
    """Read what a finished run says of itself, without building its network.

    Raises:
        CheckpointError: It is not the folder of a finished run.
    """
    path = Path(folder)
    config = read_config(path / CONFIG)
    history, closing = read_closing(path)
    return FinishedRun(
        graph=load_graph(path / GRAPH),
        searched=load_graph(path / SEARCHED),
        history=history,
        metrics=closing["metrics"],
        searched_metrics=closing["searched_metrics"],
        given_metrics=closing.get("given_metrics", {}),
        removed_metrics=closing.get("removed_metrics", {}),
        one_level_params=closing["one_level_params"],
        info=describe_data(config),
        spent=Spent(**closing["spent"]) if "spent" in closing else None,
        per_class=closing.get("per_class", []),
        notes=tuple(closing.get("notes", ())),
        folder=path,
        config=config,
    )


def describe_data(config: Mapping[str, Any]) -> DataInfo:
    """Return the description of a run's data, from its config."""
    spec: Any = next(iter(config["input_size"].values()))
    is_text = isinstance(spec, Mapping)
    return DataInfo(
        name=config["data"],
        task=config["task"],
        classes=config["classes"],
        size=(spec["length"],) if is_text else spec,
        mean=config["mean"],
        std=config["std"],
        ignore_index=config.get("ignore_index"),
        vocabulary=spec.get("vocabulary", 0) if is_text else 0,
        content=config.get("content", {}),
    )
