"""Everything wrong that a file can be: one line, the place, what to do; no traceback, no blow-up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topolearn.errors import TopolearnError
from topolearn.format import load_graph, loads
from topolearn.graph import Graph

GOOD = """\
topolearn: 1
name: good
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv, out_channels: 4}
  block: {op: resnet.basic, channels: 4}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: stem}
  - {from: stem, to: block}
  - {from: [stem, block], to: head}
outputs: [head]
"""


def error(text: str) -> str:
    with pytest.raises(TopolearnError) as caught:
        loads(text, "f.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_the_good_file_is_good() -> None:
    assert isinstance(loads(GOOD), Graph)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("just words\n", "1:1: a file starts with a mapping, such as 'topolearn: 1'"),
        ("- a list\n", "1:1: a file starts with a mapping"),
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed here"),
        (
            "a: [1, 2\nb: 3\n",
            "2:2: not valid YAML: expected ',' or ']', but got ':' while parsing a flow sequence that",
        ),
        (
            "a: 'open\n",
            "2:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar that starts",
        ),
        ("a: 1\n\tb: 2\n", "2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n b: 2\n", "2:3: not valid YAML: mapping values are not allowed here"),
        ("a: x\0y\n", "1:5: not valid YAML: character U+0000 is not allowed"),
        ("a: 1\nb: \x1b[0m\n", "2:4: not valid YAML: character U+001B is not allowed"),
        ("a: 1\n---\nb: 2\n", "2:1: a file holds one document; remove what follows '---'"),
        ("a: 1\nb: 2\na: 3\n", "3:1: duplicate key 'a'; line 1 already has it"),
        ("? [a]\n: 1\n", "1:3: a key must be a word"),
        ("a: !!python/object/apply:os.system [ls]\n", "1:4: tags are not allowed ('tag:yaml.org,2002:python/object/"),
        ("a: !mine {b: 1}\n", "1:4: tags are not allowed ('!mine')"),
        ("a: !!int '3'\n", "1:4: tags are not allowed"),
        ("a: *x\n", "1:4: unknown alias '*x'; define it with '&x' before"),
    ],
)
def test_malformed_yaml(text: str, expected: str) -> None:
    assert error(text).startswith(f"f.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # the file's own keys
        ("topolearn: 1\n", "", "1:1: the file needs 'topolearn'"),
        ("topolearn: 1", "topolearn: 2", "1:12: written in format version 2, but this reads 1"),
        ("topolearn: 1", "topolearn: 1.0", "1:12: expected the format version, 1, not 1.0"),
        ("name: good\n", "", "1:1: the file needs 'name'"),
        ("name: good", "name: [good]", "2:7: expected a name, not ['good']"),
        ("name: good", "name:", "2:1: expected a name, not None"),
        ("name: good", "name: good\ntask: clasification", "3:7: unknown task 'clasification'; did you mean"),
        ("outputs", "output", "12:1: unknown key 'output' of the file; did you mean 'outputs'?"),
        ("nodes:\n", "nodes: []\nmore:\n", "5:1: unknown key 'more' of the file; known: data, edges"),
        # inputs
        ("{image: [3, 8, 8]}", "[3, 8, 8]", "3:9: 'inputs' is a mapping, such as {name: …}"),
        ("[3, 8, 8]", "3", "3:17: an input's size is a list, such as [3, 32, 32]"),
        ("[3, 8, 8]", "[3, 8]", "3:10: 'size' of op 'input' is (3, 8), but it must be [channels, height, width] or"),
        ("[3, 8, 8]", "[3, 0, 8]", "3:10: 'size.1' of op 'input' is 0, but it should be greater than 0"),
        ("[3, 8, 8]", "[3, 99999999999, 8]", "3:10: 'size.1' of op 'input' is 99999999999, but it should be at most"),
        ("{image: [3, 8, 8]}", "{3d: [3, 8, 8]}", "3:10: '3d' is not an id; use letters, digits"),
        # nodes
        ("op: conv,", "op: konv,", "5:14: unknown op 'konv'; did you mean 'conv'?"),
        ("op: conv,", "op: {a: b},", "5:14: expected an op's name, not {'a': 'b'}"),
        ("op: conv,", "opp: conv,", "5:9: node 'stem' needs 'op'"),
        ("op: conv,", "op: input,", "5:14: declare inputs under 'inputs', such as 'image: [3, 32, 32]'"),
        ("{op: conv, out_channels: 4}", "conv", "5:9: node 'stem' is a mapping, such as {op: …}"),
        ("out_channels", "out_chanels", "5:20: unknown key 'out_chanels' of node 'stem'; did you mean 'out_channels'?"),
        ("out_channels: 4", "out_channels: four", "5:34: 'out_channels' of op 'conv' is 'four', but it should be a"),
        ("out_channels: 4", "out_channels: -4", "5:34: 'out_channels' of op 'conv' is -4, but it should be greater"),
        ("out_channels: 4", "kernel: 3", "5:3: op 'conv' needs 'out_channels'"),
        ("out_channels: 4", "out_channels: 4, kernel: 2", "5:45: 'kernel' of op 'conv' is 2, but it must be odd"),
        ("out_channels: 4", "out_channels: 4, aggregate: avg", "5:3: node 'stem': unknown aggregate 'avg'; known:"),
        ("out_channels: 4", "out_channels: 4, share: p", "5:44: 'share' is a mapping from part to group"),
        ("out_channels: 4", "out_channels: 4, share: {p: q}", "5:3: node 'stem': unknown part 'p'; 'conv' has no"),
        (
            "out_channels: 4",
            "out_channels: 4, input: 3",
            "5:44: 'input' is a mapping, such as {channels: 16, stride: 1}",
        ),
        ("out_channels: 4", "out_channels: 4, input: {channels: 0, stride: 1}", "5:55: channels must be from 1 to"),
        ("out_channels: 4", "out_channels: 4, input: {channels: 3, stride: 0}", "5:66: a stride is a positive number"),
        ("out_channels: 4", "out_channels: 4, input: {channels: 3}", "5:44: 'input' needs 'stride'"),
        ("head: {op", "stem: {op", "7:3: duplicate key 'stem'; line 5 already has it"),
        ("head: {op", "image: {op", "7:3: duplicate id 'image'; line 3 already has it"),
        (
            "  head: {op",
            '  "block[1..2]": {op: relu}\n  block1: {op',
            "8:3: duplicate id 'block1'; line 7 already has it",
        ),
        ("  stem", "  2nd", "5:3: '2nd' is not an id"),
        # ranges
        ("  stem", "  stem[2..1]", "5:3: the range 'stem[2..1]' is empty: 1 comes before 2"),
        ("  stem", "  stem[1..9999999]", "5:3: the range 'stem[1..9999999]' stands for 9,999,999 nodes; at most"),
        ("  stem", "  s[1..9999]t[1..9999]", "5:3: the range 's[1..9999]t[1..9999]' stands for 99,980,001 nodes"),
        ("  stem:", "  s[1..60000]: {op: relu}\n  t[1..60000]:", "6:3: more than 100,000 nodes"),
        (
            "  stem: {op: conv, out_channels: 4}",
            "  s[1..3]: {op: conv, out_channels: [4, 5]}",
            "5:37: 'out_channels' lists",
        ),
        ("from: [stem, block]", "from: [s[1..3], block]", "11:14: not valid YAML: expected ',' or ']', but got '['"),
        # edges
        ("  - {from: image, to: stem}", "  - image", "9:5: an edge is a mapping, such as {from: a, to: b}"),
        ("from: image, to: stem", "from: image", "9:5: an edge needs 'to'"),
        (
            "from: image, to: stem",
            "from: image, to: stem, learn: true",
            "9:29: unknown key 'learn' of an edge; did you",
        ),
        ("from: image, to: stem", "from: image, to: stem, op: alinn", "9:33: unknown edge op 'alinn'; did you mean"),
        ("from: image, to: stem", "from: image, to: stem, op: align, offset: -1", "9:48: 'offset' of edge op 'align'"),
        ("from: image, to: stem", "from: image, to: stem, learnable: 1", "9:40: expected true or false, not 1"),
        ("from: image, to: stem", "from: image, to: stem, weight: x", "9:37: a weight is a number, not 'x'"),
        ("from: image, to: stem", "from: image, to: stem, weight: .nan", "9:37: a weight is a number, not nan"),
        ("from: image, to: stem", "from: image, to: stem, weight: 1e999", "9:37: a weight is a number, not inf"),
        ("from: image, to: stem", "from: imag, to: stem", "9:5: edge imag -> stem: unknown node 'imag'; did you mean"),
        (
            "from: [stem, block], to: head",
            "from: [stem, block], to: [head, block]",
            "11:5: both ends name several nodes",
        ),
        ("from: [stem, block], to: head", "into: {head: stem}", "11:19: 'head' is a list"),
        ("from: [stem, block], to: head", "into: {head: [[stem]]}", "11:20: a source is an id, or an id with its"),
        ("from: [stem, block], to: head", "into: {head: [stem: x]}", "11:26: a weight is a number, not 'x'"),
        ("from: [stem, block], to: head", "into: {head: [stem], bloc: [stem]}", "11:34: edge stem -> bloc: unknown"),
        ("from: [stem, block], to: head", "connect: compleet, nodes: [stem]", "11:15: unknown pattern 'compleet'; did"),
        (
            "  - {from: stem, to: block}",
            "  - {from: stem, to: block}\n  - {from: stem, to: block}",
            "11:5: edge stem ->",
        ),
        # outputs
        ("outputs: [head]", "outputs: []", "12:10: the graph has no output; list one under 'outputs'"),
        ("outputs: [head]", "outputs: [hed]", "12:10: unknown output 'hed'; did you mean 'head'?"),
        ("outputs: [head]", "outputs: {a: b}", "12:10: 'a list of ids' is a list"),
        ("outputs: [head]", "outputs: [head, head]", "12:10: an output is listed twice; keep one of them"),
        # the graph
        (
            "from: image, to: stem",
            "from: block, to: stem",
            "9:5: the edges form a cycle: stem -> block -> stem; remove",
        ),
        ("from: stem, to: block", "from: block, to: block", "10:5: the edges form a cycle: block -> block"),
        ("from: image, to: stem", "from: image, to: [stem, image]", "9:5: the edges form a cycle: image -> image"),
        ("  - {from: image, to: stem}\n", "", "5:3: node 'stem' has no in-edge; connect it"),
        ("outputs: [head]", "outputs: [block]", "7:3: no path leads from node 'head' to an output; connect it or"),
        ("classes: 3}", "classes: 3}\n  more: {op: relu}", "8:3: node 'more' has no in-edge; connect it or remove it"),
        (
            "  - {from: stem, to: block}",
            "  - {from: [stem, image], to: block}",
            "10:5: edge image -> block: the source",
        ),
    ],
)
def test_the_place_and_the_mend(old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    assert error(GOOD.replace(old, new)).startswith(f"f.yaml:{expected}")


def test_a_shape_clash_names_both_shapes_and_the_mend() -> None:
    text = GOOD.replace("{from: stem, to: block}", "{from: [stem, image], to: block}")
    assert error(text) == (
        "f.yaml:10:5: edge image -> block: the source gives 3 channels at stride 1, but the target takes 4 channels at"
        " stride 1; use the edge op 'align' (no parameters) or 'project'"
    )


@pytest.mark.parametrize(
    ("entry", "column"),
    [
        ("{from: block[1..3], to: head}", 17),
        ("{connect: chain, nodes: [image, block[1..3]]}", 42),
        ("{from: [stem, s[1..2]_[1..2]], to: head}", 20),
    ],
)
def test_an_unquoted_range_inside_braces_is_explained(entry: str, column: int) -> None:
    message = error(GOOD.replace("{from: [stem, block], to: head}", entry))
    assert message.startswith(f"f.yaml:11:{column}: not valid YAML: ")
    assert '; inside {} and [] a range must be quoted: "' in message


class TestAliases:
    def test_a_value_that_holds_itself(self) -> None:
        assert error("a: &a [1, *a]\n") == "f.yaml:1:11: alias '*a' refers to itself; write the value out"
        assert error("a: &a {b: {c: *a}}\n").startswith("f.yaml:1:15: alias '*a' refers to itself")

    @pytest.mark.parametrize("levels", [9, 30, 45])
    def test_billion_laughs(self, levels: int) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
        assert error("\n".join(lines)).startswith("f.yaml:8:5: expands to more than 20,000,000 values; use macros")

    def test_a_bomb_of_ids_stops_at_the_limit_of_nodes(self) -> None:
        lists = [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10 if i else ['x'] * 10)}]" for i in range(6)]
        message = error(GOOD.replace("outputs: [head]", "outputs:\n" + "\n".join(lists)))
        assert message.startswith("f.yaml:")
        assert message.endswith("lists more than 100,000 nodes")

    def test_a_bomb_of_ranges_stops_at_the_limit_of_nodes(self) -> None:
        many = ", ".join(['"s[1..99999]"'] * 1000)
        message = error(GOOD.replace("from: [stem, block]", f"from: [{many}]"))
        assert message == "f.yaml:11:12: lists more than 100,000 nodes"

    def test_a_long_chain_of_aliases_is_deep_nesting(self) -> None:
        lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 5000))]
        assert error("\n".join(lines)).startswith("f.yaml:50:12: nested deeper than 50 levels")

    def test_a_bomb_in_a_parameter_is_not_written_out(self) -> None:
        lists = [f"    x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10 if i else ['x'] * 10)}]" for i in range(5)]
        nodes = "\n".join(["  bomb:", "    op: conv", *lists[:-1], "    out_channels: *a3"])
        assert "unknown key 'x0'" in error(GOOD.replace("  head:", f"{nodes}\n  head:"))
        inline = "[" + ", ".join(["&a [x, x, x, x, x, x, x, x, x, x]", *["*a"] * 5000]) + "]"
        message = error(GOOD.replace("out_channels: 4", f"out_channels: {inline}"))
        assert message.startswith("f.yaml:5:34: 'out_channels' of op 'conv' is ((")


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_deep_nesting(opening: str) -> None:
    assert "nested deeper than 50 levels" in error("a: " + opening * 1000)


def test_too_many_edges() -> None:
    text = GOOD.replace("  stem:", "  n[1..90000]: {op: relu}\n  stem:")
    text = text.replace("{from: stem, to: block}", '{connect: complete, nodes: "n[1..90000]"}')
    assert error(text) == "f.yaml:11:5: makes 4,049,955,000 edges; a graph may have 5,000,000"


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(TopolearnError, match=r"missing\.yaml: no such file; check the path"):
            load_graph(tmp_path / "missing.yaml")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(
            TopolearnError, match="there is no graph 'resnet38-cifar10'; did you mean 'resnet38-cifar100'"
        ):
            load_graph("resnet38-cifar10")

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(TopolearnError, match="this is a folder; name a file in it"):
            load_graph(tmp_path)
        (tmp_path / "net").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TopolearnError, match="'net' is a folder; name a YAML file"):
            load_graph("net")
        with pytest.raises(TopolearnError, match="is a folder"):
            load_graph("")

    def test_binary(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_bytes(b"topolearn: 1\nname: \xff\xfe\x00\x01")
        with pytest.raises(TopolearnError, match=r"f\.yaml:2:7: not UTF-8 text; save it as UTF-8"):
            load_graph(path)
        path.write_bytes(bytes(range(32)) * 10)
        with pytest.raises(TopolearnError, match=r"f\.yaml:1:1: not valid YAML: character U\+0000 is not allowed"):
            load_graph(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_text(GOOD)
        path.chmod(0)
        with pytest.raises(TopolearnError, match=r"f\.yaml: cannot be read: Permission denied"):
            load_graph(path)

    @pytest.mark.parametrize("name", ["x" * 5000, "folder/" + "x" * 5000 + ".yaml", "a\0b", "a\0b.yaml"])
    def test_a_name_that_no_file_can_have(self, name: str) -> None:
        with pytest.raises(TopolearnError):
            load_graph(name)

    @pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
    def test_a_file_without_end(self) -> None:
        with pytest.raises(TopolearnError, match="the file is larger than 64 MiB"):
            load_graph("/dev/zero")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_makes_anything_but_an_error(text: str) -> None:
    with pytest.raises(TopolearnError) as caught:
        loads(text)
    assert len(str(caught.value).splitlines()) == 1


LINES = GOOD.splitlines()
FRAGMENTS = st.sampled_from(
    [
        "",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "'",
        '"',
        "&a",
        "*a",
        "null",
        "true",
        "-1",
        "1e9",
        "[1..2]",
        "x",
        "\n",
        "  ",
        "[]",
        "{}",
    ]
)


@given(st.data())
def test_a_good_file_with_one_thing_changed_loads_or_fails_clearly(data: st.DataObject) -> None:
    line = data.draw(st.integers(0, len(LINES) - 1))
    start = data.draw(st.integers(0, len(LINES[line])))
    stop = data.draw(st.integers(start, min(len(LINES[line]), start + 8)))
    changed = LINES[line][:start] + data.draw(FRAGMENTS) + LINES[line][stop:]
    try:
        loads("\n".join([*LINES[:line], changed, *LINES[line + 1 :]]), "f.yaml")
    except TopolearnError as caught:
        found = caught
    else:
        return
    assert found.location is not None
    assert found.location.line is not None
    assert str(found).startswith(f"f.yaml:{found.location.line}:{found.location.column}: ")


def test_bombs_need_little_memory() -> None:
    code = """
        import resource
        import topolearn
        from topolearn.format import loads

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
        for text in ("\\n".join(lines), "a: " + "[" * 200_000, "nodes: {'n[1..999999999]': {op: relu}}"):
            try:
                loads(text)
            except topolearn.TopolearnError:
                pass
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "more than 100 MB"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
