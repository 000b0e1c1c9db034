"""Each pass by itself: what it makes of a plan, and that the plan after it computes the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler import toys
from tests.compiler.test_equivalence import HAND_MADE
from tests.compiler.test_fans import decoder, plain_resizes
from tests.compiler.test_sharing import shared_branches
from tests.compiler.test_siblings import uneven
from tests.strategies import graphs, layered_graphs
from topolearn.compiler import DAG, Network
from topolearn.compiler.lowering import find_siblings, make_fans, make_plan, merge_siblings, plain_plan, resize_late
from topolearn.compiler.plan import (
    NO_EDGE,
    Derivation,
    Fan,
    FanBranch,
    NodeOutput,
    NodeStep,
    Plan,
    SiblingStep,
    Term,
    Value,
)
from topolearn.compiler.stacking import stack
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape
from topolearn.ops.edges import Align, ConvResize, Resize

SIZE = {"size": (3, 8, 8)}
CONV = {"out_channels": 4}


def step(node: str, *sources: Value, late: tuple[bool, ...] = ()) -> NodeStep:
    return NodeStep(node, sources, late or (False,) * len(sources))


def out(node: str) -> NodeOutput:
    return NodeOutput(node)


def changed(before: Plan, after: Plan) -> list[object]:
    """The steps of a plan that another does not have."""
    kept = {each for level in before.levels for each in level}
    return [each for level in after.levels for each in level if each not in kept]


# --- the plain plan


def test_the_plain_plan_has_a_step_per_node_by_depth() -> None:
    graph = toys.diamond()
    strides = {"a": 1, "b": 1, "c": 2}
    brought = [Derivation(out(name), Align(), (Shape(4, at), Shape(6, 2)), None) for name, at in strides.items()]
    assert plain_plan(graph) == Plan(
        graph,
        (
            (step("a", out("image")),),
            (step("b", out("a")),),
            (step("c", out("a"), out("b")),),
            (step("join", *brought),),
            (step("head", out("join")),),
        ),
    )


def test_an_edge_op_that_has_nothing_to_do_makes_nothing() -> None:
    graph = toys.graph(
        [Node("image", "input", SIZE), Node("a", "conv", CONV), Node("b", "relu", {}, "sum", Shape(4, 1))],
        [Edge("image", "a"), Edge("a", "b", "align")],
    )
    assert plain_plan(graph).levels[1] == (step("b", out("a")),)


def test_a_module_of_an_edge_is_named_by_its_key() -> None:
    graph = toys.two_heads()
    plan = plain_plan(graph)
    made = [value for level in plan.levels for each in level for value in each.reads if isinstance(value, Derivation)]
    assert [value.module for value in made] == ["depth__b", "a__classes", None]


# --- siblings


def test_siblings_become_one_step_that_mixes() -> None:
    graph = toys.layers("conv_bn", CONV, width=2)
    plan = merge_siblings(plain_plan(graph), [("a1", "a2"), ("b1", "b2")])
    number = {(edge.src, edge.dst): i for i, edge in enumerate(graph.edges)}
    assert plan.levels[0] == plain_plan(graph).levels[0]
    assert plan.levels[1:] == (
        (SiblingStep(("a1", "a2"), (Term(out("stem"), False, ((number["stem", "a1"],), (number["stem", "a2"],))),)),),
        (
            SiblingStep(
                ("b1", "b2"),
                (Term(out("a1"), True, tuple((number["a1", b], number["a2", b]) for b in ("b1", "b2"))),),
            ),
        ),
        # Alone, but its sources are not.
        (SiblingStep(("join",), (Term(out("b1"), True, ((number["b1", "join"], number["b2", "join"]),)),)),),
        plain_plan(graph).levels[4],
    )


def test_what_edges_derive_from_siblings_is_derived_from_all_of_them_at_once() -> None:
    graph = toys.graph(
        [
            Node("image", "input", SIZE),
            *(Node(name, "conv", CONV) for name in "ab"),
            *(Node(name, "relu", {}, "sum", Shape(4, 2)) for name in "cd"),
            Node("e", "identity", {}, "sum", Shape(4, 2)),
        ],
        [
            *(Edge("image", name) for name in "ab"),
            Edge("a", "c", "align"),
            *(Edge(name, "d", "align") for name in "ab"),
            *(Edge(name, "e") for name in "cd"),
        ],
    )
    plan = merge_siblings(plain_plan(graph), [("a", "b"), ("c", "d")])
    aligned = Derivation(out("a"), Align(), (Shape(4, 1), Shape(4, 2)), None)
    assert plan.levels[1] == (SiblingStep(("c", "d"), (Term(aligned, True, ((2, NO_EDGE), (3, 4))),)),)


# --- fans


def resizing(reads: list[Edge], *targets: Node) -> Graph:
    """Nodes a and b at stride 2, of unequal ops, and ``targets``, which read them."""
    return toys.graph(
        [
            Node("image", "input", SIZE),
            Node("a", "conv", {**CONV, "stride": 2}),
            Node("b", "conv", {**CONV, "stride": 2, "kernel": 5}),
            *targets,
            Node("head", "segmentation_head", {"classes": 3}, "sum", targets[0].input),
        ],
        [Edge("image", "a"), Edge("image", "b"), *reads, *(Edge(node.id, "head") for node in targets)],
        task="segmentation",
    )


SMALL, LARGE = Shape(4, 2), Shape(4, 1)
C, D, E = (Node(name, op, {}, "sum", LARGE) for name, op in (("c", "relu"), ("d", "identity"), ("e", "batch_norm")))


def number_of(graph: Graph, source: str, target: str) -> int:
    return [(edge.src, edge.dst) for edge in graph.edges].index((source, target))


def resized(value: Value) -> Derivation:
    return Derivation(value, Resize(), (SMALL, LARGE), None)


def test_convolutions_of_one_source_are_a_fan_and_each_branch_is_resized() -> None:
    graph = resizing([Edge(source, target, "conv_resize") for source, target in ("ac", "ad", "bd")], C, D)
    plain = plain_plan(graph)
    ac, ad, bd = (number_of(graph, source, target) for source, target in ("ac", "ad", "bd"))
    of_a, of_b = Fan(out("a"), ConvResize(), (ac, ad)), Fan(out("b"), ConvResize(), (bd,))
    assert changed(plain, make_fans(plain)) == [
        step("c", resized(FanBranch(of_a, 0))),
        step("d", resized(FanBranch(of_a, 1)), resized(FanBranch(of_b, 0))),
    ]


def test_a_branch_of_its_target_s_size_is_not_resized() -> None:
    graph = resizing([Edge("a", "c", "conv_resize"), Edge("b", "c")], Node("c", "relu", {}, "sum", SMALL))
    plain = plain_plan(graph)
    fan = Fan(out("a"), ConvResize(), (number_of(graph, "a", "c"),))
    assert changed(plain, make_fans(plain)) == [step("c", FanBranch(fan, 0), out("b"))]


def test_edges_of_unlike_ops_are_fans_apart() -> None:
    kinds = {"c": {}, "d": {"affine": True}, "e": {}}
    graph = resizing(
        [*(Edge("a", name, "conv_resize", params) for name, params in kinds.items()), Edge("b", "c", "resize")],
        C,
        D,
        E,
    )
    plan = make_fans(plain_plan(graph))
    fans = {
        value.source.fan
        for each in plan.sums
        for value in each.sources
        if isinstance(value, Derivation) and isinstance(value.source, FanBranch)
    }
    assert {fan.edges for fan in fans} == {
        (number_of(graph, "a", "c"), number_of(graph, "a", "e")),
        (number_of(graph, "a", "d"),),
    }


def test_what_is_not_added_up_is_no_fan() -> None:
    graph = resizing([Edge(name, "c", "conv_resize") for name in "ab"], Node("c", "concat", {}, "concat", Shape(8, 1)))
    plain = plain_plan(graph)
    assert make_fans(plain) == plain


# --- late resizes


def test_a_sum_is_resized_where_it_has_as_many_sources_as_targets() -> None:
    plain = plain_plan(resizing([Edge(name, "c", "resize") for name in "ab"], C))
    plan = resize_late(plain)
    assert changed(plain, plan) == [step("c", resized(out("a")), resized(out("b")), late=(True, True))]
    assert plan.levels[1][0].reads == (out("a"), out("b"))


def test_a_source_of_more_targets_is_resized_once_for_all() -> None:
    plain = plain_plan(
        resizing([Edge("b", "c", "resize"), *(Edge("a", node.id, "resize") for node in (C, D, E))], C, D, E)
    )
    assert resize_late(plain) == plain


def test_resizes_that_differ_are_counted_apart() -> None:
    nearest = {"mode": "nearest"}
    reads = [*(Edge("a", name, "resize") for name in "cde"), *(Edge("b", name, "resize", nearest) for name in "c")]
    plain = plain_plan(resizing(reads, C, D, E))
    rule = Derivation(out("b"), Resize(mode="nearest"), (SMALL, LARGE), None)
    assert changed(plain, resize_late(plain)) == [step("c", resized(out("a")), rule, late=(False, True))]


def test_branches_of_fans_are_resized_late() -> None:
    graph = resizing([Edge("a", name, "conv_resize") for name in "cd"] + [Edge("b", "c", "resize")], C, D)
    fans = make_fans(plain_plan(graph))
    assert [each.late for each in resize_late(fans).sums[2:4]] == [(True, True), (True,)]


# --- all of them


def test_the_plan_that_runs_is_the_plain_one_after_all_passes() -> None:
    graph = decoder()
    assert make_plan(graph) == resize_late(make_fans(plain_plan(graph)))
    graph = toys.layers("conv_bn", CONV)
    sets = [("a1", "a2", "a3"), ("b1", "b2", "b3")]
    assert make_plan(graph, sets) == merge_siblings(plain_plan(graph), sets)


def check_all(graph: Graph, seed: int = 0) -> None:
    """The plan after any of the passes, in their order, computes what the reference computes, as do its gradients."""
    net, reference = toys.pair(graph, seed=seed)
    sets = find_siblings(net.graph, lambda ids: stack([net.nodes[name] for name in ids]) is not None)
    passes: list[Callable[[Plan], Plan]] = [lambda plan: merge_siblings(plan, sets), make_fans, resize_late]
    plans = [plain_plan(net.graph)]
    for each in passes:
        plans += [after for plan in plans if (after := each(plan)) not in plans]
    assert make_plan(net.graph, sets) in plans
    inputs, weights = toys.examples(graph, 2, torch.float64, seed), toys.edge_weights(graph, seed=seed)
    state = {name: value.clone() for name, value in reference.state_dict().items()}

    def steps(network: Network) -> list[toys.Step]:
        """In training with the weights as a tensor, in eval mode with constants."""
        network.load_state_dict(state)
        network.set_edge_weights(weights * -0.7)  # fixed edges too
        return [toys.step(network.train(), inputs, weights), toys.step(network.eval(), inputs)]

    wanted = steps(reference)
    for plan in plans:
        net.__dict__["dag"] = DAG(net.graph, net.nodes, net.edges, net.shared, plan=plan)
        for ours, theirs in zip(steps(net), wanted, strict=True):
            toys.assert_equal(ours, theirs, 1e-9)


BY_HAND = {
    **HAND_MADE,
    "siblings": toys.layers("resnext.branch", {"width": 2, "out_channels": 6, "stride": 2}, share={"projection": "p"}),
    "uneven": uneven(),
    "sharing": shared_branches(),
    "decoder": decoder(),
    "decoder without normalisations": decoder("sum", batch_norm=False, mode="nearest"),
    "resizes": plain_resizes(4, 1),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_pass_keeps_the_function(name: str) -> None:
    check_all(BY_HAND[name])


@given(graph=st.one_of(graphs(max_inputs=2), layered_graphs()), seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_each_pass_keeps_the_function_of_random_graphs(graph: Graph, seed: int) -> None:
    check_all(graph, seed)
