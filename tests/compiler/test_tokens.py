"""Token ops against PyTorch written by hand, and what their graphs are equal to at the start of a search."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from tests.compiler import toys
from topolearn.compiler import Network
from topolearn.compiler.modules.tokens import Embedding, PatchEmbedding, TokenHead
from topolearn.compiler.modules.transformer import Attention, TransformerBlock, rotated
from topolearn.compiler.timing import measure
from topolearn.errors import DataError, GraphError
from topolearn.format import loads
from topolearn.graph import Edge, Graph, Node
from topolearn.learners import make_learner

TEXT = """
topolearn: 1
name: text
task: next_token
inputs: {tokens: {length: 6, vocabulary: 11}}
nodes:
  embed: {op: embedding, channels: 8}
  block[1..4]: {op: transformer.block, heads: 2, causal: true, layers: 4}
  head: {op: token_head, classes: 11}
edges:
  - {from: tokens, to: embed}
  - {connect: PATTERN, nodes: [embed, "block[1..4]", head], learnable: true, start: chain}
outputs: [head]
"""


def text_graph(pattern: str = "complete") -> Graph:
    return loads(TEXT.replace("PATTERN", pattern))


def one(op: str, params: dict[str, Any], channels: int = 8, length: int = 6) -> Network:
    """A network of one op on a sequence of vectors, in float64."""
    nodes = [Node("x", "input", {"length": length, "channels": channels}), Node("op", op, params)]
    return toys.build(toys.graph(nodes, [Edge("x", "op")]), dtype=torch.float64).eval()


def sequence(batch: int = 3, length: int = 6, channels: int = 8) -> Tensor:
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def attention_by_hand(module: Attention, x: Tensor, *, causal: bool) -> Tensor:
    """Softmax of scaled products, head by head."""
    q, k, v = module.qkv(module.norm(x)).chunk(3, -1)
    width = x.shape[-1] // module.heads
    heads = []
    for start in range(0, x.shape[-1], width):
        own = slice(start, start + width)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(width)
        if causal:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        heads.append(scores.softmax(-1) @ v[..., own])
    out: Tensor = module.out(torch.cat(heads, -1))
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_what_the_formula_says(causal: bool) -> None:
    net = one("transformer.attention", {"heads": 2, "causal": causal})
    module = net.nodes["op"]
    assert isinstance(module, Attention)
    x = sequence()
    torch.testing.assert_close(net(x), attention_by_hand(module, x, causal=causal), rtol=1e-12, atol=1e-12)


def test_a_block_adds_both_branches() -> None:
    net = one("transformer.block", {"heads": 2, "width": 5, "norm": "rms", "bias": False})
    block = net.nodes["op"]
    assert isinstance(block, TransformerBlock)
    x = sequence()
    u = x + attention_by_hand(block.attention, x, causal=False)
    mlp = block.mlp
    y = u + mlp.down(F.gelu(mlp.up(mlp.norm(u))))
    torch.testing.assert_close(net(x), y, rtol=1e-12, atol=1e-12)
    assert isinstance(mlp.norm, nn.RMSNorm)
    assert mlp.up.out_features == 5
    assert [name for name, _ in block.named_parameters() if name.endswith("bias")] == []


def test_a_causal_op_sees_no_later_token() -> None:
    x = sequence()
    changed = x.clone()
    changed[:, 4:] = 7.0
    for causal in (True, False):
        net = one("transformer.block", {"heads": 2, "causal": causal})
        same = [torch.equal(a, b) for a, b in zip(net(x).unbind(1), net(changed).unbind(1), strict=True)]
        assert same == [causal] * 4 + [False] * 2


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = (torch.randn(8, dtype=torch.float64).expand(1, 1, 6, 8) for _ in range(2))
    products = rotated(q) @ rotated(k).transpose(-1, -2)
    for shift in range(-5, 6):
        diagonal = products[0, 0].diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-6, atol=1e-6)
    assert float((products[0, 0, 0] - products[0, 0, 0, 0]).abs().max()) > 1e-3
    # By hand: the pair of channels 1 and 5 at place 3, turned by 3 / 10000^(1/4).
    angle = 3 * 10000.0**-0.25
    first, second = q[0, 0, 3, 1], q[0, 0, 3, 5]
    turned = rotated(q)[0, 0, 3]
    torch.testing.assert_close(turned[1], first * math.cos(angle) - second * math.sin(angle), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(turned[5], second * math.cos(angle) + first * math.sin(angle), rtol=1e-6, atol=1e-6)


def test_rotary_blocks_take_any_length() -> None:
    net = one("transformer.block", {"heads": 2, "positions": "rotary"})
    assert net(sequence(length=17)).shape == (3, 17, 8)


def test_output_projections_start_smaller_in_deeper_networks() -> None:
    for layers in (1, 8):
        block = toys.build(
            toys.graph(
                [
                    Node("x", "input", {"length": 4, "channels": 256}),
                    Node("op", "transformer.block", {"heads": 4, "layers": layers}),
                ],
                [Edge("x", "op")],
            )
        ).nodes["op"]
        assert isinstance(block, TransformerBlock)
        for linear, std in (
            (block.attention.qkv, 0.02),
            (block.mlp.up, 0.02),
            (block.attention.out, 0.02 / math.sqrt(2 * layers)),
            (block.mlp.down, 0.02 / math.sqrt(2 * layers)),
        ):
            assert float(linear.weight.detach().std()) == pytest.approx(std, rel=0.03)
            assert not linear.bias.any()


# -- embeddings -----------------------------------------------------------------------------------


def test_an_embedding_adds_a_vector_per_place() -> None:
    net = toys.build(text_graph()).eval()
    module = net.nodes["embed"]
    assert isinstance(module, Embedding)
    assert module.places is not None
    ids = torch.tensor([[3, 0, 10]])
    expected = torch.stack([module.ids.weight[i] + module.places[t] for t, i in enumerate([3, 0, 10])])
    assert torch.equal(module(ids)[0], expected)


def test_fewer_tokens_than_positions_are_fine_and_more_are_an_error() -> None:
    net = toys.build(text_graph()).eval()
    ids = torch.randint(11, (2, 7))
    assert net(ids[:, :4]).shape == (2, 4, 11)
    with pytest.raises(DataError, match="given 7 tokens, but has learned positions for 6; give fewer"):
        net(ids)


def image_net(**params: Any) -> Network:
    nodes = [
        Node("image", "input", {"size": (3, 8, 12)}),
        Node("patches", "patch_embedding", {"channels": 5, "patch": 4, **params}),
    ]
    return toys.build(toys.graph(nodes, [Edge("image", "patches")])).eval()


def test_patches_are_read_row_by_row_behind_the_class_token() -> None:
    net = image_net(class_token=True)
    module = net.nodes["patches"]
    assert isinstance(module, PatchEmbedding)
    assert module.places is not None
    assert module.class_token is not None
    assert net.graph.nodes["patches"].params["size"] == (8, 12)
    image = torch.randn(2, 3, 8, 12)
    tokens = net(image)
    assert tokens.shape == (2, 7, 5)
    torch.testing.assert_close(tokens[:, 0], (module.class_token + module.places[0]).expand(2, -1))
    patch = image[:, :, 4:8, 8:12]  # the last one, second row, third column
    expected = F.conv2d(patch, module.conv.weight, module.conv.bias).flatten(1) + module.places[6]
    torch.testing.assert_close(tokens[:, 6], expected)


def test_a_smaller_image_takes_the_positions_of_its_patches() -> None:
    net = image_net()
    module = net.nodes["patches"]
    assert isinstance(module, PatchEmbedding)
    assert module.places is not None
    image = torch.randn(2, 3, 8, 12)
    whole, part = net(image), net(image[:, :, :, :8])
    torch.testing.assert_close(part, whole[:, [0, 1, 3, 4]])
    for larger, what in (((2, 3, 12, 12), "3 rows"), ((2, 3, 8, 16), "4 columns")):
        with pytest.raises(DataError, match=f"given {what} of patches, but has learned positions for"):
            net(torch.randn(larger))
    assert image_net(positions="rotary")(torch.randn(2, 3, 16, 16)).shape == (2, 16, 5)


def test_the_size_of_patches_is_checked_against_the_image() -> None:
    with pytest.raises(GraphError, match="'size' is 4 x 4, but the image is 8 x 12; leave 'size' out"):
        image_net(size=(4, 4))
    with pytest.raises(GraphError, match="patches of 5 x 5 do not divide an image of 8 x 12"):
        image_net(patch=5)


def test_pools_take_the_mean_or_the_class_token() -> None:
    x = sequence()
    assert torch.equal(one("token_pool", {})(x), x.mean(1))
    nodes = [
        Node("image", "input", {"size": (3, 8, 8)}),
        Node("patches", "patch_embedding", {"channels": 5, "patch": 4, "class_token": True}),
        Node("block", "transformer.block", {"heads": 1}),
        Node("pool", "token_pool", {"mode": "class"}),
    ]
    edges = [Edge("image", "patches"), Edge("patches", "block"), Edge("block", "pool")]
    net = toys.build(toys.graph(nodes, edges, "block", "pool")).eval()
    outputs = net(torch.randn(2, 3, 8, 8))
    assert torch.equal(outputs["pool"], outputs["block"][:, 0])


def test_a_head_normalises_first() -> None:
    net = one("token_head", {"classes": 3})
    module = net.nodes["op"]
    assert isinstance(module, TokenHead)
    x = sequence()
    torch.testing.assert_close(net(x), module.linear(module.norm(x)))
    torch.testing.assert_close(net(x), net(x * 100 + 5), rtol=1e-3, atol=1e-3)


# -- aggregation ----------------------------------------------------------------------------------


def test_a_concat_joins_the_channels_of_tokens() -> None:
    nodes = [
        Node("x", "input", {"length": 3, "channels": 2}),
        Node("a", "identity"),
        Node("b", "relu"),
        Node("both", "concat", {}, "concat"),
    ]
    edges = [Edge("x", "a"), Edge("x", "b"), Edge("a", "both"), Edge("b", "both", weight=2.0)]
    compiled, reference = toys.pair(toys.graph(nodes, edges))
    x = sequence(length=3, channels=2)
    assert torch.equal(compiled(x), torch.cat([x, 2 * x.relu()], 2))
    assert torch.equal(reference(x), compiled(x))


def test_tokens_are_padded_to_more_channels() -> None:
    nodes = [
        Node("x", "input", {"length": 3, "channels": 2}),
        Node("a", "identity", {}, "sum", topolearn.ops.Shape(5, length=3)),
    ]
    net = toys.build(toys.graph(nodes, [Edge("x", "a", "align", {"offset": 1})]))
    assert torch.equal(net(torch.ones(1, 3, 2))[0, 0], torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_it_trains_as_the_reference_does(aggregate: str) -> None:
    nodes = [
        Node("tokens", "input", {"length": 6, "vocabulary": 11}),
        Node("embed", "embedding", {"channels": 8}),
        *(Node(f"b{i}", "transformer.block", {"heads": 2, "causal": True}, aggregate) for i in range(3)),
        Node("head", "token_head", {"classes": 11}, aggregate),
    ]
    names = ["embed", "b0", "b1", "b2", "head"]
    edges = [Edge("tokens", "embed")]
    edges += [Edge(a, b, learnable=True) for j, b in enumerate(names) for a in names[:j]]
    graph = toys.graph(nodes, edges)
    compiled, reference = toys.pair(graph)
    ids = toys.examples(graph, 3)
    weights = toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, ids, weights), toys.step(reference, ids, weights), 1e-9)


# -- the start of a search ------------------------------------------------------------------------


def same_function(learned: Graph, fixed: Graph, rename: dict[str, str] | None = None) -> None:
    """Both networks compute the same from the same weights, without a learner and with one in its first step."""
    net = toys.build(learned, dtype=torch.float64).eval()
    other = toys.build(fixed, dtype=torch.float64).eval()
    state = net.state_dict()
    own = {}
    for name in other.state_dict():
        source = name
        for new, old in (rename or {}).items():
            source = source.replace(new, old)
        own[name] = state[source]
    other.load_state_dict(own)
    ids = torch.randint(11, (2, 6))
    torch.testing.assert_close(net(ids), other(ids), rtol=1e-12, atol=1e-12)
    searching = topolearn.compile(net, make_learner("continuous", learned)).double().eval()
    torch.testing.assert_close(searching(ids), other(ids), rtol=1e-12, atol=1e-12)


def test_a_complete_graph_started_as_a_chain_is_the_chain() -> None:
    same_function(text_graph(), text_graph("chain"))


def test_branches_at_weights_of_one_are_the_residual_stream() -> None:
    order = [f"{kind}{i}" for i in range(1, 5) for kind in ("attention", "mlp")]
    nodes = [
        Node("tokens", "input", {"length": 6, "vocabulary": 11}),
        Node("embed", "embedding", {"channels": 8}),
        *(
            Node(name, "transformer.attention", {"heads": 2, "causal": True, "layers": 4})
            if name.startswith("a")
            else Node(name, "transformer.mlp", {"layers": 4})
            for name in order
        ),
        Node("head", "token_head", {"classes": 11}),
    ]
    names = ["embed", *order, "head"]
    edges = [Edge("tokens", "embed")]
    edges += [Edge(a, b, learnable=True) for j, b in enumerate(names) for a in names[:j]]
    branches = toys.graph(nodes, edges, task="next_token")
    rename = {f"nodes.block{i}.{kind}.": f"nodes.{kind}{i}." for i in range(1, 5) for kind in ("attention", "mlp")}
    same_function(branches, text_graph("chain"), rename)


@pytest.mark.parametrize("learner", ["maskconnect", "sparsemask", "fixed", "continuous"])
def test_every_learner_runs_on_tokens(learner: str) -> None:
    graph = text_graph()
    made = make_learner(learner, graph, {"seed": 0} if learner in ("maskconnect", "sparsemask") else {})
    net = topolearn.compile(graph, made)
    optimizers = topolearn.optimizers(net, lr=1e-3, name="adamw")
    ids = torch.randint(11, (2, 6))
    for _ in range(2):
        loss = F.cross_entropy(net(ids).flatten(0, 1), ids.flatten()) + made.penalty()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        made.after_step()
    small = topolearn.prune(net.eval())
    topology = net.topology()
    net.set_edge_weights([w if kept else 0.0 for w, kept in zip(topology.weights, topology.keep, strict=True)])
    torch.testing.assert_close(small.eval()(ids), net.eval()(ids), rtol=1e-5, atol=1e-5)


def test_every_node_and_edge_of_tokens_has_a_time() -> None:
    graph = text_graph()
    prices = measure(graph)
    assert prices.kind == "milliseconds"
    assert all(value > 0 for name, value in prices.nodes.items() if name != "tokens")
    assert [price > 0 for price in prices.edges] == [edge.src != "tokens" for edge in graph.edges]
