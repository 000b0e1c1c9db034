"""Slots: every tensor is made once, before it is read, and dropped after the last step that reads it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler import toys
from tests.compiler.test_fans import decoder
from tests.compiler.test_sharing import BRANCH
from tests.strategies import graphs, layered_graphs
from topolearn.compiler.lowering import make_plan, plain_plan
from topolearn.compiler.plan import Derivation, Fan, NodeOutput, Plan
from topolearn.compiler.schedule import make_schedule
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape


def check(plan: Plan) -> None:
    """Go through the schedule as a forward pass does."""
    schedule = make_schedule(plan)
    slot_of = schedule.slot_of
    assert sorted(slot_of.values()) == list(range(schedule.slots))
    there = {slot_of[NodeOutput(name)] for name in plan.graph.inputs}
    made: list[int] = sorted(there)
    for level, last_reads in zip(schedule.levels, schedule.last_reads, strict=True):
        for turn in level:
            for each in turn.make:
                assert slot_of[each.source] in there
                new = [slot_of[value] for value in (each.branches if isinstance(each, Fan) else (each,))]
                there.update(new)
                made += new
            assert [slot_of[value] for value in turn.step.reads] == list(turn.reads)
            assert there.issuperset(turn.reads)
            there.add(turn.slot)
            made.append(turn.slot)
        assert there.issuperset(last_reads)
        there.difference_update(last_reads)
    outputs = {slot_of[NodeOutput(name)] for name in plan.graph.outputs}
    assert there - {slot_of[NodeOutput(name)] for name in plan.graph.inputs} == outputs
    assert sorted(made) == list(range(schedule.slots))


@given(graph=st.one_of(graphs(max_inputs=2), layered_graphs()))
@settings(max_examples=60)
def test_random_plans(graph: Graph) -> None:
    check(plain_plan(graph))
    check(make_plan(graph))


def test_a_plan_with_fans() -> None:
    check(make_plan(decoder()))


def test_what_several_steps_read_is_made_once_by_the_first_that_runs() -> None:
    """Nodes that share a part run before others of their depth, in whatever order they are declared."""
    shape = Shape(4, 2)
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("single", "identity", {}, "sum", shape),
            Node("b", "resnext.branch", BRANCH, "sum", shape, {"projection": "group"}),
            Node("head", "concat", {}, "concat", Shape(10, 4)),
        ],
        [
            Edge("image", "single", "align"),
            Edge("image", "b", "align"),
            Edge("single", "head", "align"),
            Edge("b", "head"),
        ],
    )
    schedule = make_schedule(plain_plan(graph))
    first, second = schedule.levels[0]
    assert (first.step.nodes, second.step.nodes) == (("b",), ("single",))
    assert [type(made) for made in first.make] == [Derivation]
    assert second.make == ()
    assert first.reads == second.reads


def test_what_sums_read_more_than_once_is_told_apart() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (4, 8, 8)}),
            *(Node(name, "identity") for name in "abc"),
            *(Node(name, "relu") for name in "de"),
        ],
        [
            Edge("image", "a"),
            Edge("image", "b"),
            Edge("image", "c"),
            Edge("a", "d", learnable=True),
            Edge("b", "d"),
            Edge("a", "e"),
            Edge("b", "e"),
            Edge("c", "e", learnable=True),
        ],
        "d",
        "e",
    )
    schedule = make_schedule(plain_plan(graph))
    slots = {name: schedule.slot_of[NodeOutput(name)] for name in graph.nodes}
    assert [name for name in slots if schedule.shared_reads[slots[name]]] == ["a", "b"]  # the image is taken as it is
    assert [name for name in slots if schedule.learned_reads[slots[name]]] == ["a", "c"]
