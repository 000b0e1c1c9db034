"""Next tokens: loss and metrics against values computed by hand, and what a graph must have for them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from topolearn.data import DataInfo
from topolearn.errors import DataError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.tasks import Evaluation, check_fits, task_of
from topolearn.tasks.base import NextToken

GRAPH = """
topolearn: 1
name: words
task: next_token
inputs: {tokens: {length: 8, vocabulary: 5}}
nodes:
  embed: {op: embedding, channels: 4}
  block: {op: transformer.block, heads: 2, causal: true}
  head: {op: token_head, classes: 5}
edges:
  - {from: tokens, to: embed}
  - {from: embed, to: block}
  - {from: [embed, block], to: head}
outputs: [head]
"""
TASK = task_of("next_token")


def text(vocabulary: int = 5) -> DataInfo:
    return DataInfo("a text", "next_token", (), (8,), (), (), vocabulary=vocabulary)


def words(*changes: tuple[str, str]) -> Graph:
    document = GRAPH
    for old, new in changes:
        assert old in document
        document = document.replace(old, new)
    return loads(document)


def evaluate(batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The batches' ids stand for the network's outputs."""
    info = text()
    return Evaluation(TASK.loss(info), TASK.metrics(info), torch.device("cpu")).run(lambda logits: logits, batches)


def nats(logits: list[float], target: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[target]


ROWS: list[list[float]] = [[2, 0, 1, 0, 0], [0, 3, 0, 0, 0], [1, 1, 0, 0, -1], [0, 0, 0, 0, 0], [5, 0, 0, 0, 4]]
TARGETS = [2, 1, 0, 0, 4]
EACH = [nats(row, target) for row, target in zip(ROWS, TARGETS, strict=True)]


def test_the_loss_is_a_mean_over_all_places() -> None:
    logits, targets = torch.tensor(ROWS[:4]).view(2, 2, 5), torch.tensor(TARGETS[:4]).view(2, 2)
    assert float(TASK.loss(text())(logits, targets)) == pytest.approx(sum(EACH[:4]) / 4)


def test_label_smoothing_mixes_in_the_uniform_distribution() -> None:
    logits, targets = torch.tensor(ROWS[:1]).view(1, 1, 5), torch.tensor(TARGETS[:1]).view(1, 1)
    uniform = sum(nats(ROWS[0], target) for target in range(5)) / 5
    assert float(TASK.loss(text(), 0.1)(logits, targets)) == pytest.approx(0.9 * EACH[0] + 0.1 * uniform)


def test_bits_per_byte_and_accuracy_over_batches_of_unequal_size() -> None:
    logits, targets = torch.tensor(ROWS), torch.tensor(TARGETS)
    batches = [
        (logits[:4].view(2, 2, 5), targets[:4].view(2, 2)),
        (logits[4:].view(1, 1, 5), targets[4:].view(1, 1)),
    ]
    found = evaluate(batches)
    assert found["bits_per_byte"] == pytest.approx(sum(EACH) / 5 / math.log(2))
    # Ties go to the smallest id; the first and the last are wrong.
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert list(found) == ["loss", "bits_per_byte", "accuracy"]


def test_no_knowledge_of_bytes_is_8_bits() -> None:
    found = evaluate([(torch.zeros(2, 3, 256), torch.randint(256, (2, 3)))])
    assert found["bits_per_byte"] == pytest.approx(8)
    assert found["loss"] == pytest.approx(8 * math.log(2))


def test_a_text_of_half_precision_is_summed_in_full() -> None:
    logits, targets = torch.tensor(ROWS).view(1, 5, 5), torch.tensor(TARGETS).view(1, 5)
    whole, half = (evaluate([(logits.to(dtype), targets)]) for dtype in (torch.float32, torch.bfloat16))
    assert half["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)  # these logits are exact in both


def test_the_answer_is_about_the_last_token() -> None:
    logits = torch.tensor(ROWS[:2], dtype=torch.float32)
    answer = TASK.answer(logits, text())
    assert isinstance(answer, NextToken)
    assert torch.equal(answer.shares, logits[1].softmax(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("{op: token_head, classes: 5}", "{op: token_head, classes: 6}")],
            "'tokens' of graph 'words' has a vocabulary",
        ),
        (
            [("causal: true", "causal: false")],
            "node 'block' of graph 'words' sees later tokens, which are to be predicted; set 'causal: true'",
        ),
        ([("{op: token_head, classes: 5}", "{op: token_pool}")], "next_token cannot be learned from output 'head'"),
    ],
)
def test_outputs_that_do_not_fit(changes: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        TASK.check_outputs(words(*changes), text())
    assert message in caught.value.message


def test_a_vocabulary_that_is_too_small() -> None:
    check_fits(words(), text(5))
    with pytest.raises(DataError) as caught:
        check_fits(words(), text(6))
    assert caught.value.message == (
        "'a text' holds the token 5, but input 'tokens' of graph 'words' has a vocabulary of 5; set"
        " 'inputs.tokens.vocabulary' to at least 6"
    )


def test_a_graph_of_vectors_takes_no_text() -> None:
    sequence = words(("vocabulary: 5", "channels: 4"), ("embedding, channels: 4", "layer_norm"))
    with pytest.raises(DataError, match="'a text' is text, but input 'tokens' of graph 'words' takes 8 tokens of 4"):
        check_fits(sequence, text())
