"""A small network of bytes, trained for two steps, and networks of text whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.training.runs import quick_fit
from topolearn.data import DataInfo
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.prediction import TextModel
from topolearn.runs import FitResult

CONTEXT = 8
GRAPH = """
topolearn: 1
name: tiny-text
task: next_token
inputs: {tokens: {length: 8, vocabulary: VOCABULARY}}
nodes:
  embed: {op: embedding, channels: 8, positions: POSITIONS}
  block[1..2]: {op: transformer.block, heads: 2, causal: true, layers: 2, positions: POSITIONS}
  head: {op: token_head, classes: VOCABULARY}
edges:
  - {from: tokens, to: embed}
  - {connect: complete, nodes: [embed, "block[1..2]", head], learnable: true, start: chain}
outputs: [head]
"""


def text_graph(vocabulary: int = 256, positions: str = "learned") -> Graph:
    """Two blocks of eight channels over contexts of eight tokens."""
    return loads(GRAPH.replace("VOCABULARY", str(vocabulary)).replace("POSITIONS", positions))


def text_run(folder: Path) -> FitResult:
    """A finished run on a text of a few hundred bytes, with its folder ``run``."""
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog; Straße\n" * 8, encoding="utf-8")
    return quick_fit(
        text_graph(),
        data=text,
        out=folder / "run",
        epochs=2,
        batch_size=4,
        lr=0.5,
        learner="continuous",
        training={"steps_per_epoch": 2},
    )


def always(logits: Sequence[float], context: int = 4) -> TextModel:
    """A network that gives the same logits at every place, whatever it reads."""

    def network(ids: Tensor) -> Tensor:
        assert ids.shape[1] <= context
        return torch.tensor(logits).expand(1, ids.shape[1], len(logits))

    return TextModel(DataInfo("net", "next_token", (), (context,), (), (), vocabulary=len(logits)), network)
