"""Data of tensors for any graph: what items may hold, how they are batched, and errors for those that do not fit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from tests.data.toys import Items, NoisyParts, global_state
from tests.training.runs import SEVERAL
from topolearn.data import Data
from topolearn.data.for_graph import read_data
from topolearn.errors import DataError, OptionError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.recipes import TrainOptions
from topolearn.samples.seeded import SeededLoader
from topolearn.samples.structured import Signature, StructuredData

ONE = """
topolearn: 1
name: one
inputs: {{x: {size}}}
nodes:
  {nodes}
edges:
  {edges}
outputs: [head]
"""


def table(classes: int = 3) -> Graph:
    """Vectors of 4."""
    nodes, edges = f"head: {{op: linear, out_features: {classes}}}", "- {from: x, to: head}"
    return loads(ONE.format(size="[4]", nodes=nodes, edges=edges))


def words() -> Graph:
    """Up to 6 ids below 9."""
    nodes = "embed: {op: embedding, channels: 4}\n  pool: {op: token_pool}\n  head: {op: classifier, classes: 2}"
    edges = "- {connect: chain, nodes: [x, embed, pool, head]}"
    return loads(ONE.format(size="{length: 6, vocabulary: 9}", nodes=nodes, edges=edges))


def picture() -> Graph:
    """Images of 1 x 4 x 4."""
    nodes, edges = "head: {op: classifier, classes: 3}", "- {from: x, to: head}"
    return loads(ONE.format(size="[1, 4, 4]", nodes=nodes, edges=edges))


def rows(count: int = 10, classes: int = 3) -> TensorDataset:
    """Row i holds i and has the label i mod ``classes``."""
    return TensorDataset(torch.arange(float(count))[:, None].repeat(1, 4), torch.arange(count) % classes)


def read(graph: Graph, train: Any, val: Any = None, *, own_loss: bool = False, **options: Any) -> Data:
    pair = (train, train if val is None else val)
    return read_data(graph, pair, None, TrainOptions(**options), own_loss=own_loss)


def flat(batches: Any) -> list[Tensor]:
    """All tensors of some batches, in order."""
    parts = [part for batch in batches for part in batch]
    return [value for part in parts for value in (part.values() if isinstance(part, dict) else [part])]


def same(first: Any, second: Any) -> bool:
    ours, theirs = flat(first), flat(second)
    return len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# -- what there is ------------------------------------------------------------------------------


def test_vectors_with_labels() -> None:
    for train in (rows(), DataLoader(rows(), 4)):
        data = read(table(), train)
        assert isinstance(data, StructuredData)
        assert (data.info.classes, data.info.size, data.info.items) == (("0", "1", "2"), (4,), "samples")
        assert (data.train_size, data.val_size) == (10, 10)
        assert (data.mid_epoch_resume, data.steps(4)) == ((False, 3) if isinstance(train, DataLoader) else (True, 2))
        (first, labels), *_ = data.val_batches(4)
        assert torch.equal(first, torch.arange(4.0)[:, None].repeat(1, 4))
        assert labels.tolist() == [0, 1, 2, 0]


def test_rarer_classes_and_names() -> None:
    assert read(table(5), rows()).info.classes == tuple("01234")
    assert read(table(5), Items([*rows()], classes=["a", "b", "c", "d", "e"])).info.classes == tuple("abcde")
    assert read(table(3), Subset(rows(9), [0, 1, 2])).info.classes == tuple("012")


@pytest.mark.parametrize("names", [{}, {"classes": ["a", "b", "c"]}])
def test_every_class_must_occur(names: dict[str, list[str]]) -> None:
    gap = [(row, 2 * (int(label) % 2)) for row, label in rows()]
    wrong = rf"class '{'b' if names else '1'}' has no training example: .* 0 \(7 samples\), 2 \(3 samples\)"
    with pytest.raises(DataError, match=wrong):  # known before training
        read(table(), Items(gap, targets=[label for _, label in gap], **names), rows())
    items = Items(gap, **names)
    loaders = DataLoader(items, 3), DataLoader(rows(), 3)
    for train, val in ((items, rows()), loaders):
        with pytest.raises(DataError, match=wrong):
            list(read(table(), train, val).train_batches(3, seed=0, epoch=0))


def test_a_class_that_fills_no_batch_occurs() -> None:
    items = Items([(torch.zeros(4), int(index == 9)) for index in range(10)], classes=["many", "one"])
    for train in (items, DataLoader(items, 3, drop_last=True)):
        data = read(table(2), train)
        for epoch in range(3):
            assert len(list(data.train_batches(3, seed=0, epoch=epoch))) == 3


def test_a_look_leaves_the_generators_of_a_loader_where_they_were() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(rows(), 2, shuffle=True, generator=generator)
    state, everywhere = generator.get_state(), torch.get_rng_state()
    looks = SeededLoader(loader, "the loader").labels(lambda batch: batch[1], 4)
    next(looks)
    looks.close()
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_several_inputs_and_targets_by_name() -> None:
    data = read(loads(SEVERAL), NoisyParts(9), own_loss=True)
    (inputs, targets), *_ = data.train_batches(4, seed=0, epoch=0)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {"left": (4, 3), "right": (4, 5)}
    assert {value.dtype for value in inputs.values()} == {torch.float32}, "numpy gives float64"
    assert {name: value.dtype for name, value in targets.items()} == {"kind": torch.int64, "size": torch.float32}
    assert torch.allclose(inputs["left"].mean(1), targets["size"]), "what belongs together stays together"
    assert data.info.classes == ()
    assert data.info.inputs == ("left", "right")


@pytest.mark.parametrize(
    ("target", "dtype", "shape"),
    [
        (1, torch.int64, (3,)),
        (0.5, torch.float32, (3,)),
        (True, torch.int64, (3,)),
        (np.float64(2), torch.float32, (3,)),
        (np.arange(2, dtype=np.int16), torch.int64, (3, 2)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.int64, (3, 2, 4, 4)),
    ],
)
def test_targets_in_any_form(target: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    data = read(table(), Items([(torch.zeros(4), target)] * 3), own_loss=True)
    ((_, targets),) = data.val_batches(3)
    assert (targets.dtype, targets.shape) == (dtype, shape)


def test_images_whose_targets_are_no_labels() -> None:
    pixels = torch.rand(1, 4, 4)
    for target in ({"a": 1, "b": 0.5}, 0.5, torch.tensor([0, 1])):
        items = Items([(pixels, target)] * 4)
        for train in (items, DataLoader(items, 2)):
            data = read(picture(), train, own_loss=True)
            assert isinstance(data, StructuredData)
            images, _ = next(iter(data.val_batches(2)))
            assert torch.equal(images[0], pixels)
    labelled = read(picture(), Items([(pixels, label) for label in range(3)]), own_loss=True)
    assert not isinstance(labelled, StructuredData), "images with labels are what they were"


def test_ids_and_shorter_sequences() -> None:
    data = read(words(), sentences())
    ((ids, labels),) = data.val_batches(4)
    assert (ids.dtype, tuple(ids.shape), labels.tolist()) == (torch.int64, (4, 5), [0, 1, 0, 1])


def sentences() -> Items:
    """Sequences of 5 ids."""
    return Items([(torch.arange(5) + index, index % 2) for index in range(4)])


# -- the same again -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_function_of_seed_epoch_and_step(workers: int) -> None:
    def batches(seed: int = 0, epoch: int = 0, first: int = 0) -> list[Any]:
        data = read(loads(SEVERAL), NoisyParts(13), own_loss=True, workers=workers)
        return list(data.train_batches(4, seed=seed, epoch=epoch, first=first))

    before = global_state()
    whole = batches()
    assert len(whole) == 3
    assert same(whole, batches())
    assert same(whole[2:], batches(first=2))
    assert not same(whole, batches(epoch=1))
    assert not same(whole, batches(seed=1))
    assert global_state() == before


def test_an_epoch_of_a_loader_can_be_had_again() -> None:
    data = read(loads(SEVERAL), DataLoader(NoisyParts(8), 4, shuffle=True), own_loss=True)
    assert data.steps(99) == 2
    assert same(data.train_batches(9, seed=0, epoch=1), data.train_batches(9, seed=0, epoch=1))
    assert not same(data.train_batches(9, seed=0, epoch=1), data.train_batches(9, seed=0, epoch=0))
    with pytest.raises(DataError, match="at the beginning of an epoch, not at step 1"):
        data.train_batches(9, seed=0, epoch=0, first=1)


def test_parts_are_the_whole() -> None:
    data = read(loads(SEVERAL), NoisyParts(13), own_loss=True)
    parts = [data.part(rank, 2) for rank in range(2)]
    for whole, *halves in (
        [each.train_batches(5, seed=0, epoch=0) for each in (data, *parts)],
        [each.val_batches(5) for each in (data, *parts)],
    ):
        joined = (
            tuple({name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(one, two, strict=True))
            for one, two in zip(*halves, strict=True)
        )
        assert same(whole, joined)
    with pytest.raises(DataError, match="cannot be divided over 2 processes; give Datasets"):
        read(table(), DataLoader(rows())).part(0, 2)


def test_a_signature_can_go_to_a_worker() -> None:
    assert pickle.loads(pickle.dumps(Signature.of(words()))) == Signature.of(words())


# -- what does not fit --------------------------------------------------------------------------

LEFT, RIGHT = torch.zeros(3), torch.zeros(5)


@pytest.mark.parametrize(
    ("item", "texts"),
    [
        (({"left": LEFT}, 0), ["item 0 of the training set lacks the input 'right' of graph 'tiny-several'"]),
        (({"left": LEFT, "rigth": RIGHT}, 0), ["has the input 'rigth'", "did you mean 'right'?"]),
        (({"left": LEFT, "right": RIGHT, "more": LEFT}, 0), ["has the input 'more'", "takes 'left', 'right'"]),
        ((LEFT, 0), ["the inputs of item 0 of the training set are a Tensor (3,)", "give a dict by these names"]),
        (({"left": LEFT, "right": LEFT}, 0), ["input 'right' of item 0", "has the shape (3,)", "takes (5,)"]),
        (({"left": "a", "right": RIGHT}, 0), ["input 'left' of item 0", "is a str"]),
        (({"left": LEFT, "right": RIGHT}, "a"), ["the target of item 0", "is a str", "or a dict of these"]),
        (({"left": LEFT, "right": RIGHT}, {"kind": None}), ["target 'kind' of item 0", "is a NoneType"]),
        (({"left": LEFT, "right": RIGHT}, {0: 1}), ["item 0 of the training set has a target of the name 0, but"]),
        (({"left": LEFT, "right": RIGHT}, {"": 1}), ["item 0 of the training set has a target of the name ''"]),
        (({"left": LEFT, "right": RIGHT}, {}), ["targets of item 0", "an empty dict"]),
        ((LEFT, RIGHT, 0), ["item 0 of the training set is a tuple of 3, but must be a pair (inputs, targets)"]),
        ({"left": LEFT, "right": RIGHT, "y": 0}, ["item 0 of the training set is a dict"]),
    ],
)
def test_items_that_do_not_fit(item: Any, texts: list[str]) -> None:
    fails(texts, loads(SEVERAL), Items([item]), own_loss=True)
    good = Items([({"left": LEFT, "right": RIGHT}, 0)])
    if "an empty dict" not in texts:
        fails(
            [text.replace("training", "validation") for text in texts],
            loads(SEVERAL),
            good,
            Items([item]),
            own_loss=True,
        )


def fails(texts: list[str], graph: Graph, *sets: Any, error: type[Exception] = DataError, **options: Any) -> None:
    with pytest.raises(error) as caught:
        list(read(graph, *sets, **options).train_batches(2, seed=0, epoch=0))
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_input_takes_no_dict() -> None:
    texts = ["are a dict, but graph 'one' has one input, 'x'; give its tensor alone"]
    fails(texts, table(), Items([({"x": torch.zeros(4)}, 0)]))


def test_batches_that_do_not_fit() -> None:
    fails(["a batch of the training loader", "(2, 5)", "takes (N, 4)"], table(), loader(torch.zeros(4, 5)))
    uneven = DataLoader(rows(), 2, collate_fn=lambda items: (torch.zeros(2, 4), torch.zeros(3).long()))
    fails(["a batch of the training loader holds tensors of different lengths"], table(), uneven)


def loader(inputs: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, torch.arange(len(inputs)) % 3), 2)


def test_images_are_floats() -> None:
    items = Items([(torch.zeros(1, 4, 4, dtype=torch.uint8), 0.5)])
    fails(["input 'x' of item 0", "of torch.uint8, but must hold floats"], picture(), items, own_loss=True)


def test_all_targets_have_one_form() -> None:
    x = torch.zeros(4)
    fails(["item 1 of the training set has the target in floats"], table(), Items([(x, 1), (x, 0.5)]), own_loss=True)
    pairs = Items([(x, {"a": 1}), (x, {"a": 1, "b": 2})])
    fails(["target 'a' in whole numbers, one per item and target 'b'", "starts with"], table(), pairs, own_loss=True)
    vectors = Items([(x, torch.zeros(2)), (x, torch.zeros(3))])
    fails(["has targets of different sizes or types, 2 and 3; give them one size"], table(), vectors, own_loss=True)


def test_values_are_numbers_and_name_their_item() -> None:
    broken = rows()
    broken.tensors[0][7, 2] = float("nan")
    fails(["input 'x' of item 7 of the training set holds values that are NaN"], table(), broken)
    fails(["input 'x' of item 1 of batch 3 of the training loader"], table(), DataLoader(broken, 2))
    items = Items([(torch.zeros(4), {"a": 1.0, "b": float("inf")})])
    fails(
        ["target 'b' of item 0 of the training set holds values that are NaN or infinite"],
        table(),
        items,
        own_loss=True,
    )


def test_ids_are_in_the_vocabulary() -> None:
    large = Items([(torch.tensor([3, 9]), 0)])
    fails(["input 'x' of item 0 of the training set holds the id 9, but ids are 0 to 8"], words(), large)
    fails(["holds floats, but must hold ids"], words(), Items([(torch.rand(5), 0)]))
    fails(["has the shape (7,), but graph 'one' takes (6,)"], words(), Items([(torch.arange(7), 0)]))
    fails(["has the shape (0,)"], words(), Items([(torch.arange(0), 0)]))


def test_without_a_loss_targets_are_labels() -> None:
    for target in (0.5, {"a": 1}, torch.tensor([0, 1])):
        fails(["needs one whole number per item; give a 'loss'"], table(), Items([(torch.zeros(4), target)]))
    for wrong, code in ((torch.tensor([2]), "[:, 0]"), (2.0, ".long()"), (torch.tensor([0, 1]), ".argmax(1)")):
        fails([f"in Python for other targets, or use targets{code}"], table(), Items([(torch.zeros(4), wrong)]))
    val = TensorDataset(torch.zeros(3, 4), torch.tensor([0, 1, 7]))
    with pytest.raises(DataError, match="item 2 of the validation set has the label 7, but there are 3 classes"):
        list(read(table(), rows(), val).val_batches(4))


def test_options_that_are_for_images() -> None:
    fails(["'crop' is for images with masks only"], table(), rows(), error=OptionError, crop=(2, 2))
    fails(["'train_images' cannot pick from 'TensorDataset'"], table(), rows(), train_images=3)
    several = {"own_loss": True, "error": OptionError}
    fails(["'cuda_graph' needs one tensor of inputs"], loads(SEVERAL), NoisyParts(3), cuda_graph=True, **several)
    read(table(), rows(), cuda_graph=True)
