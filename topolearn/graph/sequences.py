"""Checks of token graphs before training: where tokens get their positions from, and what predicts the next token.

A graph that fails them can be built and run, such as a pruned one. But it is no use to train it.
"""

from __future__ import annotations

from dataclasses import dataclass

from topolearn.errors import GraphError
from topolearn.graph.wiring import Node, Wiring
from topolearn.ops import Shape
from topolearn.ops.basic import Identity, Input
from topolearn.ops.tokens import Embedding, LayerNorm, PatchEmbedding
from topolearn.ops.transformer import TransformerOp
from topolearn.task_kinds import kind_of

Note = tuple[str, str]
"""Id of a node, and what is probably not meant there."""


def check_sequences(graph: Wiring, *, own_loss: bool = False) -> None:
    """Check that a token graph can be trained.

    Args:
        graph: A verified graph.
        own_loss: Whether the loss is not the task's, so that outputs may have any form.

    Raises:
        GraphError: An embedding leaves positions to attention, which uses none; a graph for text has another input
            than one of ids; or see :func:`check_next_token`, without an own loss.
    """
    reading = _attention(graph)
    for origin in _origins(reading):
        readers = [reader for reader in reading if origin in reader.origins]
        if _is_embedding(graph.nodes[origin]) and not any(reader.knows_positions(graph) for reader in readers):
            raise GraphError(
                f"node '{origin}' of graph '{graph.name}' leaves positions to attention, but '{readers[0].node.id}'"
                " uses none, so the order of the tokens is lost; set 'positions: rotary' on all attention, or"
                f" 'positions: learned' on '{origin}'",
                node=origin,
            )
    if not kind_of(graph.task).is_text:
        return
    for name in graph.inputs:
        shape = graph.shapes[name]
        if not isinstance(shape, Shape) or not shape.is_ids or len(graph.inputs) > 1:
            raise GraphError(
                f"{graph.task} needs one input, of token ids, but input '{name}' of graph '{graph.name}' is"
                f" {'one of several' if len(graph.inputs) > 1 else shape}; declare"
                f" 'inputs: {{{name}: {{length: 128, vocabulary: 256}}}}' alone",
                node=name,
            )
    if len(graph.outputs) == 1 and not own_loss:  # several outputs need a loss of your own
        check_next_token(graph)


def position_notes(graph: Wiring) -> list[Note]:
    """Return what is valid but seldom meant: positions given twice, or vectors whose order attention does not see."""
    reading = _attention(graph)
    notes: list[Note] = []
    for origin in _origins(reading):
        readers = [reader for reader in reading if origin in reader.origins]
        turning = next((reader.node.id for reader in readers if _has_positions(reader.node)), None)
        blind = next((reader.node.id for reader in readers if reader.node.rule.sight == "all"), None)
        if _has_positions(graph.nodes[origin]) and turning is not None:
            text = (
                f"node '{origin}' learns positions, and attention in '{turning}' uses rotary ones too; one kind is"
                f" enough: to drop the learned ones, set 'positions: rotary' on '{origin}'"
            )
            notes.append((origin, text))
        elif blind is not None and not any(reader.knows_positions(graph) for reader in readers):
            text = (
                f"attention in '{blind}' does not see in which order the vectors of '{origin}' come; set 'positions:"
                " rotary' on all attention, unless the order means nothing"
            )
            notes.append((blind, text))
    return notes


def check_next_token(graph: Wiring) -> None:
    """Check that the only output scores every token at each place, and that no place sees a later token.

    Raises:
        GraphError: The input does not take ids, the output is not tokens, it has another number of scores than the
            vocabulary, or a node sees later tokens.
    """
    (output,) = graph.outputs
    source, shape = graph.shapes[graph.inputs[0]], graph.shapes[output]
    assert isinstance(source, Shape)
    what = f"output '{output}' of graph '{graph.name}'"
    if not isinstance(shape, Shape) or not shape.is_tokens:
        raise GraphError(
            f"{graph.task} cannot be learned from {what}, which is {shape}; end the graph in a token_head", node=output
        )
    if source.vocabulary is not None and shape.channels != source.vocabulary:
        raise GraphError(
            f"input '{graph.inputs[0]}' of graph '{graph.name}' has a vocabulary of {source.vocabulary}, but {what} has"
            f" {shape.channels} classes; set 'nodes.{output}.classes' to {source.vocabulary}",
            node=output,
        )
    for node in graph.nodes.values():
        if node.rule.sight == "all":
            raise GraphError(
                f"node '{node.id}' of graph '{graph.name}' sees later tokens, which are to be predicted; set"
                " 'causal: true' on all such nodes",
                node=node.id,
            )


@dataclass(frozen=True)
class _Attention:
    """A node with attention, and the embeddings and inputs of vectors whose tokens it reads."""

    node: Node
    origins: frozenset[str]

    def knows_positions(self, graph: Wiring) -> bool:
        return any(map(_has_positions, (self.node, *(graph.nodes[origin] for origin in self.origins))))


def _attention(graph: Wiring) -> list[_Attention]:
    """Return the nodes with attention. Tokens are followed through ops that are known to add no positions."""
    found: list[_Attention] = []
    origins: dict[str, frozenset[str]] = {}
    for node in graph.nodes.values():
        rule = node.rule
        if _is_embedding(node) or (isinstance(rule, Input) and rule.channels is not None):
            origins[node.id] = frozenset([node.id])
        elif isinstance(rule, TransformerOp | LayerNorm | Identity):
            sources = (graph.edges[i].src for i in graph.in_edges(node.id))
            origins[node.id] = frozenset().union(*(origins.get(source, frozenset()) for source in sources))
            if rule.sight != "itself":
                found.append(_Attention(node, origins[node.id]))
    return found


def _origins(reading: list[_Attention]) -> list[str]:
    return list(dict.fromkeys(origin for reader in reading for origin in sorted(reader.origins)))


def _is_embedding(node: Node) -> bool:
    return isinstance(node.rule, Embedding | PatchEmbedding)


def _has_positions(node: Node) -> bool:
    """Whether an embedding learns positions, or attention is rotary."""
    return getattr(node.rule, "positions", None) == ("learned" if _is_embedding(node) else "rotary")
