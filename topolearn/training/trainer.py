"""The training loop: phases, steps, checkpoints."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from topolearn.compiler import Network, prune
from topolearn.compiler import compile as build
from topolearn.compiler.finite import not_finite
from topolearn.distributed import ALONE, World
from topolearn.errors import CheckpointError, DataError, DivergedError, TopolearnError
from topolearn.format import dumps, loads
from topolearn.runs.checkpoint import Checkpoint, Position, foreign_checkpoint
from topolearn.runs.folder import STATE
from topolearn.runs.run_writer import RunWriter
from topolearn.runs.tensor_files import load_into
from topolearn.samples import Data
from topolearn.samples.base import AnyBatch, Tensors, listed, moved
from topolearn.samples.seeds import mix
from topolearn.tasks import Evaluation, default_metrics, task_of
from topolearn.tasks.sliding import judged
from topolearn.training.callbacks import Callback
from topolearn.training.given import check_given
from topolearn.training.interrupt import Interrupt, way_on
from topolearn.training.optim import load_saved_state, optimizers, saved_state
from topolearn.training.phases import (
    Scheduled,
    begin_phase,
    evaluations_left,
    freeze_affine,
    recalibrate,
    search_steps,
)
from topolearn.training.prepare import Prepared
from topolearn.training.progress import Reporter
from topolearn.training.scoring_batches import ScoringBatches
from topolearn.training.step import TrainingStep, autocast

_CHECK_EVERY = 25
"""Steps between checks on a GPU (is the loss finite, has someone asked to stop). Each check waits for the device."""
_USUAL = 100.0
"""Images rarely have larger absolute values: data sets are normalised to about 1."""
_ADVICE = "lower 'lr', or set 'clip_grad_norm' or 'warmup_epochs'"


@dataclass
class Trainer:
    """The training loop: takes a network through the phases of a run.

    Attributes:
        ready: The recipe, the learner, and the plan.
        net: The network; replaced by the pruned one when the search ends.
        data: This process's part of the data, on the device of the network.
        writer: Writes the files of the run.
        world: The processes that train together.
        start: The weights that the run was given, for a later phase that starts from them again, or None.
        callbacks: Functions called with each record of the history.
        history: Records so far.
        given_metrics: Metrics of the network that the run was given, or that a learner that scores was given.
        removed_metrics: Metrics right after blocks were removed by their scores.
        searched_metrics: Metrics of the network at the end of the search.
        per_class: One row per class from the last evaluation; empty if no metric has them.
        at: The position in the run.
    """

    ready: Prepared
    net: Network
    data: Data
    writer: RunWriter
    world: World = ALONE
    start: Mapping[str, Tensor] | None = None
    callbacks: tuple[Callback, ...] = field(init=False)
    history: list[dict[str, Any]] = field(default_factory=list)
    given_metrics: dict[str, float] = field(default_factory=dict)
    removed_metrics: dict[str, float] = field(default_factory=dict)
    searched_metrics: dict[str, float] = field(default_factory=dict)
    per_class: list[dict[str, Any]] = field(default_factory=list)
    at: Position = field(default_factory=Position)

    def __post_init__(self) -> None:
        recipe = self.ready.recipe
        self.recipe, self.options, self.plan = recipe, recipe.training, self.ready.plan
        self.learner, self.device = self.ready.learner, self.ready.device
        info = self.ready.data.info
        self.loss = recipe.loss or task_of(info.task).loss(info, self.options.label_smoothing)
        self.metrics = default_metrics(self.ready.graph, info) if recipe.metrics is None else recipe.metrics
        self.callbacks = recipe.callbacks if self.world.is_main else ()
        self.optimizers: list[Optimizer] = []
        self.take_step: TrainingStep | None = None
        self.resumed: Checkpoint | None = None
        self.plain_dag: nn.Module | None = None
        self.measured: dict[str, float] | None = None  # metrics of the current network; None: not measured yet
        self.steps = self.data.steps(recipe.batch_size)
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        # Tensor cores prefer channels last; on a CPU it depends on the network.
        asked = self.options.channels_last
        self.channels_last = self.device.type == "cuda" if asked is None else asked

    # -- the run ---------------------------------------------------------------------------------

    def run(self) -> dict[str, float]:
        """Train through all phases.

        Returns:
            Metrics of the final network on the validation data.

        Raises:
            DivergedError: The loss or a weight becomes infinite or NaN.
            KeyboardInterrupt: After Ctrl-C, with a checkpoint written.
        """
        total = sum(item.epochs for item in self.plan) * self.steps
        done = self.at.epochs * self.steps + self.at.step
        quiet = self.recipe.quiet or not self.world.is_main
        self.reporter = Reporter(
            total, done, items=self.data.info.items, evaluations=self.evaluations_left(), quiet=quiet
        )
        with Interrupt() as interrupt, self.reporter:
            self.interrupt = interrupt
            while self.at.phase < len(self.plan):
                self.start_phase()
                with self.broken_off(interrupt):
                    self.run_phase(interrupt)
                self.end_phase()
                self.at = self.at.next_phase()
            if not self.at.settled:
                self.end_search()
            return self.evaluate()

    def start_phase(self) -> None:
        """Prepare the network and the training step of the current phase."""
        scheduled = self.plan[self.at.phase]
        phase = scheduled.phase
        if self.resumed is None:
            if not phase.search and not self.at.settled:
                self.end_search()
            if not phase.search:
                self.net = begin_phase(self.net, phase, mix("phase", self.recipe.seed, self.at.phase), self.start)
                self.measured = None
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)
        freeze_affine(self.net, phase.freeze_affine)
        self.make_optimizers(scheduled)
        self.take_step = TrainingStep(
            net=self.net,
            loss=self.loss,
            optimizers=self.optimizers,
            learner=self.learner if phase.search else None,
            precision=self.recipe.precision,
            channels_last=self.channels_last,
            clip_grad_norm=self.options.clip_grad_norm,
            world=self.world,
            captured=self.options.cuda_graph,
        )
        if self.options.compile:
            self.plain_dag = self.net.dag
            self.net.__dict__["dag"] = torch.compile(self.net.dag)

    def end_phase(self) -> None:
        """Undo compilation and drop the optimisers, so that the network can be pruned, exported and copied."""
        if self.plain_dag is not None:
            self.net.__dict__["dag"], self.plain_dag = self.plain_dag, None
        self.optimizers, self.take_step = [], None

    def make_optimizers(self, scheduled: Scheduled) -> None:
        """Make the optimisers of a phase; a resumed phase restores their state."""
        lr = self.recipe.lr * scheduled.phase.lr
        if scheduled.phase.search:
            self.learner.begin(scheduled.search_schedule(self.options, lr, self.steps))
        self.optimizers = optimizers(self.net, lr, self.options.optimizer, **self.options.optimizer_options())
        if self.resumed is not None:
            try:
                for optimizer, state in zip(self.optimizers, self.resumed.optimizers, strict=True):
                    load_saved_state(optimizer, state)
            except (ValueError, KeyError, TypeError):
                raise self.foreign() from None
            self.resumed = None

    def run_phase(self, interrupt: Interrupt) -> None:
        """Run the remaining epochs of a phase."""
        scheduled = self.plan[self.at.phase]
        while self.at.epoch < scheduled.epochs:
            self.run_epoch(scheduled, interrupt)
            self.at.epoch += 1
            self.at.epochs += 1
            self.at.step = 0
            self.save()
            is_last = self.at.epoch == scheduled.epochs and self.at.phase == len(self.plan) - 1
            if self.world.any(interrupt.asked, self.device) and not is_last:
                self.stop()

    def run_epoch(self, scheduled: Scheduled, interrupt: Interrupt) -> None:
        """Run the remaining steps of an epoch, and record it."""
        started = time.perf_counter()
        total = self.epoch_loss if self.at.step else torch.zeros((), dtype=torch.float64, device=self.device)
        self.net.train()
        self.measured = None
        images_seen = 0
        self.note_values(scheduled)
        for inputs, targets in self.batches(self.at.step):
            total = total + self.step(scheduled, moved(inputs, self.device), moved(targets, self.device))
            self.at.step += 1
            self.note_values(scheduled)
            count = len(listed(inputs)[0]) * self.world.size
            images_seen += count
            self.reporter.step(scheduled.phase.name, count)
            if self.device.type == "cpu" or self.at.step % _CHECK_EVERY == 0:
                self.check_finite(total)
            self.epoch_loss = total
            if self.at.step != self.steps:
                self.pause(total, interrupt)
        self.check_complete()
        self.check_finite(total)
        self.check_weights()
        self.record(scheduled, float(total) / max(1, self.at.step), images_seen, time.perf_counter() - started)

    def batches(self, first: int) -> Iterator[AnyBatch]:
        """Return the batches of the current epoch from step ``first``, or all if an epoch only starts as a whole."""
        first = first if self.data.mid_epoch_resume else 0
        return self.data.train_batches(self.recipe.batch_size, seed=self.recipe.seed, epoch=self.at.epochs, first=first)

    def pause(self, total: Tensor, interrupt: Interrupt) -> None:
        """Write a checkpoint between two steps if one is due, and stop if someone asked for that."""
        every = self.options.checkpoint_steps
        asked = interrupt.asked
        if self.world.size > 1:  # all stop after the same step
            now = self.device.type == "cpu" or self.at.step % _CHECK_EVERY == 0
            asked = now and self.world.any(asked, self.device)
        due = asked or (every is not None and self.at.step % every == 0)
        if due and self.data.mid_epoch_resume:
            self.check_finite(total)
            self.check_weights()
            self.save()
        if asked:
            self.stop()

    def step(self, scheduled: Scheduled, inputs: Tensors, targets: Tensors) -> Tensor:
        """Take one training step and return the task loss."""
        number = self.at.epoch * self.steps + self.at.step
        factor = scheduled.lr_factor(self.options, number, self.steps)
        assert self.take_step is not None
        seed = mix("step", self.recipe.seed, self.at.epochs, self.at.step)
        return self.take_step(inputs, targets, factor=factor, seed=seed)

    def check_complete(self) -> None:
        """Raise a DataError if the data ended an epoch early; DataLoaders have their own check."""
        if self.data.mid_epoch_resume and self.at.step < self.steps:
            raise DataError(
                f"the training data '{self.data.info.name}' ended after {self.at.step:,} of the {self.steps:,} batches"
                " of an epoch; let 'train_batches' give as many as 'steps' says"
            )

    def check_finite(self, total: Tensor) -> None:
        """Raise a DivergedError if the loss is infinite or NaN."""
        if math.isfinite(float(total)):
            return
        what = f"the loss became {float(total)}"
        if self.at.epochs == 0 and self.at.step == 1:  # the first loss comes before the first update
            raise self.diverged(what, "no weight has changed yet, so check the loss function")
        raise self.diverged(what)

    def check_weights(self) -> None:
        """Raise a DivergedError if a weight is infinite or NaN, before a checkpoint or a result keeps it."""
        name = not_finite(self.net)
        if name is not None:
            raise self.diverged("a weight became infinite or nan", f"the first is '{name}'; {_ADVICE}")

    def diverged(self, what: str, advice: str = _ADVICE) -> DivergedError:
        """Return the error for a run that can only go back to its last checkpoint."""
        last = self.writer.last_checkpoint()
        kept = "" if last is None else f"; the last good checkpoint is in {last}"
        reach = self.reach()
        if not reach <= _USUAL:
            advice = f"the {self.data.info.items} reach {reach:.3g}: bring them to about 1; {advice}"
        return DivergedError(
            f"{what} in phase '{self.plan[self.at.phase].phase.name}', epoch {self.at.epoch + 1}, step {self.at.step};"
            f" {advice}{kept}"
        )

    def reach(self) -> float:
        """Read the inputs of the latest steps again and return their largest absolute value; 0 for ids."""
        batches = self.batches(max(0, self.at.step - _CHECK_EVERY))
        latest = (values for inputs, _ in itertools.islice(batches, _CHECK_EVERY) for values in listed(inputs))
        return max((float(values.abs().max()) for values in latest if values.is_floating_point()), default=0.0)

    # -- the end of the search -------------------------------------------------------------------

    def end_search(self) -> None:
        """End the search: keep its metrics and network, freeze the topology, and prune."""
        before = self.net.graph
        trained = any(item.phase.search for item in self.plan[: self.at.phase + 1])
        if self.learner.scores_blocks:
            if trained:
                self.given_metrics = self.evaluate()
            self.score()
        elif trained:
            self.searched_metrics = self.evaluate()
        if trained or self.learner.scores_blocks:
            self.writer.search_ended(self.net)
        self.net = prune(self.net)
        graph = self.net.graph
        if len(graph.edges) < len(before.edges):
            self.measured = None  # if nothing is removed, pruning does not change what the network computes
        if self.learner.recalibrates and recalibrate(
            self.net, self.data, self.recipe.batch_size, mix("recalibrate", self.recipe.seed)
        ):
            self.measured = None
        if self.learner.scores_blocks:
            self.removed_metrics = self.evaluate()
        self.at.settled = True
        self.reporter.say(
            f"kept {len(graph.edges)} of {len(before.edges)} edges and {len(graph.nodes)} of"
            f" {len(before.nodes)} nodes; {graph.cost.params:,} of {before.cost.params:,} parameters"
        )

    def score(self) -> None:
        """Let the learner score the blocks of the trained network, in process 0."""
        batches = ScoringBatches(
            net=self.net,
            data=self.data,
            loss_function=self.loss,
            batch_size=self.recipe.batch_size,
            seed=mix("score", self.recipe.seed),
            device=self.device,
            precision=self.recipe.precision,
            paused=self.between_scores,
        )
        self.world.from_main(lambda: self.learner.score(batches))
        self.world.share(self.learner.buffers())

    def between_scores(self, done: str, due: bool) -> None:
        """Show what is scored, write a checkpoint if it is due, and stop if someone asked for that."""
        self.reporter.scoring(done)
        asked = self.interrupt.asked and self.world.size == 1  # several processes stop together, after a step
        if asked or due:
            self.save()
        if asked:
            self.stop()

    def judge_given(self, known: Mapping[str, Any]) -> None:
        """Measure the given network, with its own edge weights, before training.

        Args:
            known: What is known of the data that it was trained on.

        Raises:
            TrainingError: Its classes are not known, and it is no better than guessing.
        """
        self.given_metrics, _ = self.judge(build(self.net))
        if self.options.judge_given:
            check_given(self.given_metrics, known, self.data.info, self.data.val_size)

    def evaluate(self) -> dict[str, float]:
        """Return loss and metrics on the validation data; reuse the last ones if the network has not changed."""
        if self.measured is None:
            self.world.share(self.net.buffers())  # the running statistics of process 0
            with self.reporter.evaluation():
                self.measured, self.per_class = self.judge(self.net)
        return self.measured

    def judge(self, net: Network) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return the loss and metrics of a network on the validation data, and one row per class."""
        net.to(self.device).eval()
        with torch.no_grad(), autocast(self.recipe.precision, self.device):
            evaluation = Evaluation(self.loss, self.metrics, self.device, self.world)
            batches = self.data.val_batches(self.data.val_batch_size(self.recipe.batch_size))
            metrics = evaluation.run(judged(net, self.options), batches)
        return metrics, evaluation.per_class

    def evaluations_left(self) -> int:
        """Return how often the network will be evaluated from here on, at most."""
        pruned = self.plan[-1].phase.search or (self.learner.scores_blocks and not self.at.settled)
        return evaluations_left(self.plan, self.at, self.options.evaluate_every) + pruned  # once more after pruning

    # -- records and checkpoints -----------------------------------------------------------------

    def record(self, scheduled: Scheduled, loss: float, images: int, seconds: float) -> None:
        """Evaluate if that is due, and add the epoch to the history, the files, the progress and the callbacks."""
        assert self.take_step is not None
        is_due = scheduled.is_evaluated(self.at.epoch, self.at.epochs, self.options.evaluate_every)
        measured = self.evaluate() if is_due else {}
        if not math.isfinite(measured.get("loss", 0.0)):
            raise self.diverged(f"the validation loss became {measured['loss']}")
        record: dict[str, Any] = {
            "phase": scheduled.phase.name,
            "epoch": self.at.epoch + 1,
            "epochs": scheduled.epochs,
            "train_loss": loss,
            **{f"val_{name}": value for name, value in measured.items()},
            "lr": self.take_step.rates.now,
            "images_per_second": images / max(1e-9, seconds),
            "seconds": seconds,
        }
        if scheduled.phase.search:
            record |= {name: float(value) for name, value in self.learner.summary().items()}
        self.history.append(record)
        self.writer.epoch(record)
        self.reporter.epoch(record, self.learner.progress() if scheduled.phase.search else "")
        for callback in self.callbacks:
            callback(dict(record))  # a copy, so that callbacks cannot change the history

    def note_values(self, scheduled: Scheduled) -> None:
        """Record where the learner's values are in the search."""
        if scheduled.phase.search:
            self.writer.moved(self.learner, *search_steps(self.plan, self.at, self.steps))

    def save(self) -> None:
        """Write a checkpoint."""
        if self.writer.folder is None:
            return
        starts_over = any(item.phase.weights == "fresh" for item in self.plan[self.at.phase + 1 :])
        self.writer.checkpoint(
            Checkpoint(
                position=self.at,
                graph=dumps(self.net.graph),
                network=self.net.state_dict(),
                learner=self.learner.state_dict(),
                optimizers=[saved_state(optimizer) for optimizer in self.optimizers],
                epoch_loss=self.epoch_loss if self.at.step else None,
                history=self.history,
                searched_metrics=self.searched_metrics,
                given_metrics=self.given_metrics,
                removed_metrics=self.removed_metrics,
                start=self.start if starts_over else None,
            )
        )

    @contextlib.contextmanager
    def broken_off(self, interrupt: Interrupt) -> Iterator[None]:
        """Treat an error after Ctrl-C as a consequence of it: Ctrl-C also ends the processes of a compiler."""
        try:
            yield
        except TopolearnError:
            raise
        except Exception:
            if interrupt.asked:
                self.stop()
            raise

    def stop(self) -> None:
        """Report an interrupted run, and raise KeyboardInterrupt."""
        exact = self.data.mid_epoch_resume or not self.at.step
        self.reporter.say(f"interrupted; {way_on(self.writer.folder, exact=exact)}")
        raise KeyboardInterrupt from None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the run in the recipe's folder from its checkpoint.

        Raises:
            CheckpointError: The checkpoint is from another run.
        """
        self.at = checkpoint.position
        path = self.checkpointed / STATE
        try:
            epochs = self.plan[self.at.phase].epochs
            if self.at.settled:
                self.net = build(loads(checkpoint.graph, STATE)).to(self.device)
            load_into(self.net, checkpoint.network, path)
            load_into(self.learner, checkpoint.learner, path)
            if self.at.step:
                assert checkpoint.epoch_loss is not None
                self.epoch_loss = checkpoint.epoch_loss.to(self.device)
        except (TypeError, IndexError, AttributeError, AssertionError):
            raise self.foreign() from None
        self.start = self.start if checkpoint.start is None else checkpoint.start
        self.history, self.searched_metrics = checkpoint.history, checkpoint.searched_metrics
        self.given_metrics, self.removed_metrics = checkpoint.given_metrics, checkpoint.removed_metrics
        if self.at.epoch >= epochs:
            self.at = self.at.next_phase()
        elif self.at.settled or self.plan[self.at.phase].phase.search:  # else it was written while scoring
            self.resumed = checkpoint
        self.writer.resumed(self.history)

    @property
    def checkpointed(self) -> Path:
        """The folder of a run that has a checkpoint, in every process."""
        assert self.recipe.out is not None
        return self.recipe.out

    def foreign(self) -> CheckpointError:
        """Return the error for a valid checkpoint of another run."""
        return foreign_checkpoint(self.checkpointed)
