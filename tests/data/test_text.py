"""Text as data: how it is divided, which contexts are drawn, and what is wrong with it before training."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topolearn.data import DATASETS, TextFormat, load_data
from topolearn.data import text as module
from topolearn.data.text import PIECE, TextData, divided, text_of_bytes, text_of_ids
from topolearn.errors import DataError

Run = Callable[..., tuple[int, str, str]]
GRAPH = """
topolearn: 1
name: tiny-text
task: next_token
inputs: {tokens: {length: 8, vocabulary: 256}}
nodes:
  embed: {op: embedding, channels: 4}
  block: {op: transformer.block, heads: 2, causal: true}
  head: {op: token_head, classes: 256}
edges:
  - {from: tokens, to: embed}
  - {from: embed, to: block}
  - {from: [embed, block], to: head, learnable: true}
outputs: [head]
"""


def counting(train: int = 200, val: int = 50, *, length: int = 8, steps: int = 5) -> TextData:
    """Ids that are their own places, so that a context says where it begins."""
    return text_of_ids(torch.arange(train), torch.arange(val), TextFormat(length, steps))


def contents(batches: Any) -> list[list[list[list[int]]]]:
    return [[ids.tolist(), targets.tolist()] for ids, targets in batches]


class TestDivision:
    def test_pieces_are_shuffled_with_seed_0_and_a_twentieth_is_held_out(self) -> None:
        text = torch.arange(41 * PIECE + 17)
        train, val = divided(text, 64)
        pieces = list(text.split(PIECE))
        order = torch.randperm(42, generator=torch.Generator().manual_seed(0)).tolist()
        assert torch.equal(torch.cat([train, val]), torch.cat([pieces[number] for number in order]))
        assert torch.equal(val, torch.cat([pieces[number] for number in order[-2:]]))

    @pytest.mark.parametrize(("size", "length", "piece"), [(1000, 8, 50), (1000, 99, 100), (100, 4, 5), (18, 8, 9)])
    def test_pieces_of_a_short_text_are_smaller_but_hold_a_context(self, size: int, length: int, piece: int) -> None:
        train, val = divided(torch.arange(size), length)
        assert sorted([*train.tolist(), *val.tolist()]) == list(range(size))
        assert len(val) >= piece >= length + 1
        assert len(train) > len(val) or size == 2 * piece

    def test_a_text_of_one_piece_has_nothing_to_validate_on(self) -> None:
        train, val = divided(torch.arange(9), 8)
        assert (len(train), len(val)) == (9, 0)


class TestBatches:
    def test_a_target_is_the_token_that_comes_next(self) -> None:
        for batches in (counting().train_batches(4, seed=0, epoch=0), counting().val_batches(4)):
            for ids, targets in batches:
                assert ids.dtype == targets.dtype == torch.int64
                assert ids.shape == targets.shape == (len(ids), 8)
                assert torch.equal(targets, ids + 1)
                assert torch.equal(ids, ids[:, :1] + torch.arange(8))

    def test_they_are_a_function_of_seed_and_epoch(self) -> None:
        def drawn(seed: int, epoch: int) -> Any:
            return contents(counting().train_batches(4, seed=seed, epoch=epoch))

        torch.manual_seed(5)
        one = drawn(1, 2)
        torch.manual_seed(6)
        assert drawn(1, 2) == one
        assert len(one) == 5
        assert drawn(1, 3) != one
        assert drawn(2, 2) != one

    def test_every_place_can_begin_a_context(self) -> None:
        data = counting(train=20, steps=200)
        starts = {int(row[0]) for ids, _ in data.train_batches(4, seed=0, epoch=0) for row in ids}
        assert starts == set(range(12))

    @pytest.mark.parametrize("first", [0, 1, 4, 5])
    def test_an_epoch_is_entered_in_the_middle(self, first: int) -> None:
        whole = contents(counting().train_batches(4, seed=3, epoch=1))
        assert contents(counting().train_batches(4, seed=3, epoch=1, first=first)) == whole[first:]
        assert TextData.mid_epoch_resume

    @pytest.mark.parametrize("size", [4, 5])
    def test_two_processes_share_every_batch(self, size: int) -> None:
        whole, parts = counting(), [counting().part(rank, 2) for rank in range(2)]
        batches = [list(data.train_batches(size, seed=0, epoch=0)) for data in (whole, *parts)]
        for (ids, _), *others in zip(*batches, strict=True):
            assert torch.equal(ids, torch.cat([part for part, _ in others]))
        judged = [int(row[0]) for part in parts for ids, _ in part.val_batches(size) for row in ids]
        assert sorted(judged) == [0, 8, 16, 24, 32, 40]
        assert parts[0].steps(size) == whole.steps(size) == 5
        assert parts[0].val_size == whole.val_size

    def test_validation_takes_each_place_once_and_in_order(self) -> None:
        data = counting(val=50)
        targets = torch.cat([batch for _, batch in data.val_batches(4)])
        assert targets.flatten().tolist() == list(range(1, 49))
        assert [len(ids) for ids, _ in data.val_batches(4)] == [4, 2]
        assert (data.val_size, data.train_size) == (6, 24)

    def test_a_large_validation_text_is_sampled_evenly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_VALIDATED", 32)
        data = counting(val=801)
        starts = [int(row[0]) for ids, _ in data.val_batches(3) for row in ids]
        assert (data.val_size, starts) == (4, [0, 200, 400, 600])
        assert counting(val=33).val_size == 4

    def test_fewer_tokens_are_validated_if_you_say_so(self) -> None:
        data = text_of_ids(torch.arange(50), torch.arange(801), TextFormat(8, validated=39))
        assert [int(row[0]) for ids, _ in data.val_batches(3) for row in ids] == [0, 200, 400, 600]
        assert text_of_ids(torch.arange(50), torch.arange(801), TextFormat(8, validated=1)).val_size == 1

    @pytest.mark.parametrize(("length", "trained", "judged"), [(64, 2, 32), (64, 32, 32), (64, 50, 50), (4096, 2, 2)])
    def test_an_evaluation_has_batches_of_2048_tokens_or_more(self, length: int, trained: int, judged: int) -> None:
        data = text_of_ids(torch.arange(5000), torch.arange(5000), TextFormat(length))
        assert data.val_batch_size(trained) == judged

    def test_what_the_data_say_of_themselves(self) -> None:
        info = counting().info
        assert (info.task, info.vocabulary, info.size) == ("next_token", 200, (8,))
        assert counting().to("cpu").info == info


class TestFiles:
    FORM = TextFormat(8, 3)

    def test_a_file_is_its_bytes(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * 4  # no UTF-8
        (tmp_path / "a.txt").write_bytes(content)
        data = load_data(tmp_path / "a.txt", text=self.FORM)
        assert isinstance(data, TextData)
        assert data.info.vocabulary == 256
        sha256 = hashlib.sha256(content).hexdigest()
        assert data.info.content == {"bytes": 1024, "sha256": sha256}
        assert data.steps(7) == 3

    def test_a_folder_is_its_txt_files_in_the_order_of_their_paths(self, tmp_path: Path) -> None:
        for name, letter in {"b.txt": "b", "a/z.txt": "a", "c.md": "-", "a/.DS_Store": "-"}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(letter * 100)
        data = load_data(tmp_path, task="next_token", text=self.FORM)
        assert data.info.content["sha256"] == hashlib.sha256(b"a" * 100 + b"b" * 100).hexdigest()
        assert data.notes == (f"read 2 .txt files of '{tmp_path}'; not looked at: 2 of another kind",)

    @pytest.mark.parametrize("place", ["text.txt", "text/one.txt"])
    def test_text_is_looked_for_where_data_sets_are(self, tmp_path: Path, place: str) -> None:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("words " * 100)
        assert load_data("text", root=tmp_path, text=self.FORM).info.content["bytes"] == 600
        assert load_data("text", root=(tmp_path / place).parent, text=self.FORM).info.content["bytes"] == 600
        assert load_data("text", root=tmp_path / place, text=self.FORM).info.content["bytes"] == 600

    def test_a_missing_text_names_every_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TOPOLEARN_DATA", "/none/b")
        with pytest.raises(DataError) as caught:
            load_data("text", root="/none/a")
        roots = ["/none/a", "/none/b", "data", f"{tmp_path}/.cache/topolearn"]
        places = ", ".join(f"'{root}/{name}'" for root in roots for name in ("text.txt", "text"))
        assert caught.value.message == f"there is no text in {places}; give --data FILE.txt, or a folder of .txt files"

    @pytest.mark.parametrize("convert", [torch.as_tensor, np.asarray])
    @pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
    def test_ids_of_a_tokenizer(self, convert: Callable[..., Any], dtype: str) -> None:
        train, val = (convert(np.arange(size).astype(dtype)) for size in (90, 30))
        data = load_data((train, val), task="next_token", text=self.FORM)
        assert data.info.vocabulary == 90
        ids, _ = next(iter(data.val_batches(2)))
        assert ids[1].tolist() == list(range(8, 16))


class TestPythonSource:
    @pytest.fixture
    def library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Stands in for the standard library."""
        files = ("b.py", "a/z.py", "B.py", "a.py", "notes.txt", "b.pyc")
        skipped = ("site-packages", "dist-packages", "test", "a/tests", "idle_test", "a/__pycache__")
        for name in (*files, *(f"{folder}/no.py" for folder in skipped)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"# {name}\n" * 50)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: {"stdlib": str(tmp_path)}[name])
        return tmp_path

    def test_files_in_the_order_of_their_paths_without_tests(self, library: Path) -> None:
        content = "".join(f"# {name}\n" * 50 for name in ("B.py", "a.py", "a/z.py", "b.py")).encode()
        data = load_data("python-source", text=TextFormat(8))
        assert data.info.content == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "python": platform.python_version(),
        }
        assert data.info.name == "python-source"

    def test_a_python_without_source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        with pytest.raises(DataError, match=r"this Python has no source .* give a text of your own"):
            load_data("python-source")

    def test_this_python_has_some(self) -> None:
        data = load_data("python-source")
        assert data.info.content["bytes"] > 1_000_000
        assert data.info.vocabulary <= 256
        ids, _ = next(iter(data.train_batches(2, seed=0, epoch=0)))
        assert ids.shape == (2, 64)

    def test_texts_are_listed_with_what_they_are(self, run: Run) -> None:
        assert {"python-source", "text"} <= set(DATASETS)
        status, out, _ = run("list", "data")
        lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
        assert status == 0
        assert lines["python-source"].startswith("Text that comes with Python")
        assert lines["text"].startswith("Text of your own")


IDS = torch.arange(40)


class TestBadInput:
    @pytest.mark.parametrize(
        ("train", "val", "message"),
        [
            (IDS.float(), IDS, "the training text is (40,) of torch.float32, but must be one axis of whole numbers"),
            (IDS, IDS.bool(), "the validation text is (40,) of torch.bool, but must be one axis of whole numbers"),
            (IDS - 3, IDS, "the training text has the id -3, but ids start at 0"),
            (IDS.view(4, 10), IDS, "the training text is (4, 10) of torch.int64, but must be one axis"),
            (IDS, IDS[:0], "the validation text is (0,) of torch.int64, but must be one axis of whole numbers"),
            ("words", IDS, "the training text is a str, but must be one axis of whole numbers"),
            (
                IDS,
                IDS[:8],
                "the validation text of 'text' has 8 tokens, but needs a context of 8 and the one that comes",
            ),
        ],
    )
    def test_ids(self, train: Any, val: Any, message: str) -> None:
        with pytest.raises(DataError) as caught:
            load_data((train, val), task="next_token", text=TextFormat(8))
        assert caught.value.message.startswith(message)

    def test_something_else(self) -> None:
        with pytest.raises(DataError, match=r"data is a int, but for next_token must be a text file, a folder of .txt"):
            load_data(3, task="next_token")  # type: ignore[arg-type]

    def test_the_shortest_text_that_will_do(self) -> None:
        assert text_of_bytes("t", b"x" * 18, TextFormat(8), {}).val_size == 1
        with pytest.raises(DataError, match=r"'t' has 17 bytes, but needs 18: a context of 8 and the byte that comes"):
            text_of_bytes("t", b"x" * 17, TextFormat(8), {})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("--data", "short.txt"),
                "'short.txt' has 12 bytes, but needs 18: a context of 8 and the byte that comes next",
            ),
            (("--data", "empty.txt"), "'empty.txt' is empty; give a file with text in it"),
            (("--data", "bare"), "there is no .txt file in 'bare'; give a text file, or a folder of .txt files"),
            (("--data", "no.txt"), "there is no file '{here}/no.txt'; give a text file, or a folder of .txt files"),
            (("--data", "nothing"), "there is no data set 'nothing', and no such folder in "),
            (("--data", "digits"), "'digits' is for classification, but the task is next_token; use other data"),
            (
                ("--data", "good.txt", "--set", "inputs.tokens.vocabulary=65", "--set", "nodes.head.classes=65"),
                "'good.txt' holds the token 122, but input 'tokens' of graph 'tiny-text' has a vocabulary of 65;"
                " set 'inputs.tokens.vocabulary' to at least 123",
            ),
            (
                ("--data", "good.txt", "--set", "nodes.head.classes=300"),
                "input 'tokens' of graph 'tiny-text' has a vocabulary of 256, but output 'head'",
            ),
            (
                ("--data", "good.txt", "--set", "nodes.block.causal=false"),
                "node 'block' of graph 'tiny-text' sees later tokens, which are to be predicted; set 'causal: true'",
            ),
            (
                ("--data", "good.txt", "--set", "train_images=5"),
                "'train_images' is for images, but graph 'tiny-text' is for next_token; leave it out",
            ),
            (
                ("--data", "good.txt", "--set", "crop=4"),
                "'crop' is for images, but graph 'tiny-text' is for next_token; leave it out",
            ),
        ],
    )
    def test_one_line_before_training(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("TOPOLEARN_DATA", raising=False)
        (tmp_path / "bare").mkdir()
        for name, text in {
            "g.yaml": GRAPH,
            "short.txt": "twelve bytes",
            "empty.txt": "",
            "good.txt": "lazy " * 99,
        }.items():
            (tmp_path / name).write_text(text)
        status, out, err = run("fit", "g.yaml", *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: " + message.replace("{here}", str(tmp_path)))
        assert err.count("\n") == 1
        assert not (tmp_path / "runs").exists()

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("words " * 100)
        (tmp_path / "a.txt").chmod(0)
        with pytest.raises(DataError, match=r"a.txt' cannot be read: Permission denied"):
            load_data(tmp_path / "a.txt")

    def test_a_file_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("words " * 100)

        def failing(self: Path) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(Path, "read_bytes", failing)
        with pytest.raises(DataError, match=r"a.txt' cannot be read: Input/output error"):
            load_data(tmp_path / "a.txt")

    def test_a_text_that_is_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("words " * 100)
        monkeypatch.setattr(module, "LARGEST", 599)
        with pytest.raises(DataError, match=r"the text is larger than 599 bytes at .*; give less of it"):
            load_data(tmp_path / "a.txt")

    def test_fewer_images_are_for_images(self) -> None:
        with pytest.raises(DataError, match="'train_images' is for images, but 'text' is text; give a shorter file"):
            counting().first_images(3)

    def test_text_is_no_data_for_images(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("words " * 100)
        with pytest.raises(DataError, match="is for next_token, but the task is classification; use other data"):
            load_data(tmp_path / "a.txt", task="classification")


def test_batches_are_placed_on_a_device_and_the_text_is_not_copied() -> None:
    data = counting()
    other = data.to("meta")
    ids, _ = next(iter(other.val_batches(2)))
    assert ids.device.type == "meta"
    held: Tensor = other._train
    assert held is data._train


@pytest.mark.parametrize("kind", ["uint8", "uint16", ">i4", "int64", "uint64"])
def test_ids_of_any_whole_type(kind: str) -> None:
    ids = np.arange(60)[::-1].astype(kind)
    ids.setflags(write=False)
    for given in (ids, torch.from_numpy(ids.astype(ids.dtype.newbyteorder("="))) if kind != ">i4" else ids):
        data = load_data((given, ids), task="next_token", text=TextFormat(4))
        assert data.info.vocabulary == 60
        first, following = next(data.val_batches(2))
        assert first.tolist() == [[59, 58, 57, 56], [55, 54, 53, 52]]
        assert following.tolist() == [[58, 57, 56, 55], [54, 53, 52, 51]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (np.array(["a", "b"]), "is (2,) of <U1, but must be one axis of whole numbers"),
        (np.array([1, None]), "is (2,) of object, but must be"),
        (torch.zeros(4, dtype=torch.complex64), "is (4,) of torch.complex64, but must be"),
        (torch.zeros(4, dtype=torch.int64, device="meta"), "is (4,) of torch.int64, but must be"),
        (torch.zeros(4, dtype=torch.int64).to_sparse(), "is (4,) of torch.int64, but must be"),
        (np.array([0, 2**40]), "has the id 1,099,511,627,776, but ids are below 2^31"),
    ],
)
def test_what_is_no_ids(given: Any, text: str) -> None:
    with pytest.raises(DataError) as caught:
        load_data((given, given), task="next_token", text=TextFormat(1))
    assert text in str(caught.value)


def test_a_pipe_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "lost.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "real.txt").write_bytes(b"0123456789" * 3)
    data = load_data(tmp_path, task="next_token", text=TextFormat(4))
    assert data.info.content["bytes"] == 30
    assert data.notes[0].endswith("not looked at: 2 of another kind")
    with pytest.raises(DataError, match=r"pipe.txt' is not a file that can be read twice"):
        load_data(tmp_path / "pipe.txt", task="next_token", text=TextFormat(4))
