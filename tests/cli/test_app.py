"""The command line: what it prints, its exit statuses, and that it needs no torch to help, show and validate."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import topolearn
from topolearn.cli import app as cli
from topolearn.format import loads, schema
from topolearn.graph import KeepEdges, Topology

Run = Callable[..., tuple[int, str, str]]


def process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """``python -m topolearn`` in a process of its own."""
    return subprocess.run([sys.executable, "-m", "topolearn", *arguments], capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def finished_run(folder: Path, masks: list[float]) -> Path:
    """The folder of a MaskConnect run over two candidates, without the training."""
    import torch

    from topolearn.runs.config import write_config
    from topolearn.runs.folder import CONFIG, GRAPH, SEARCH_STATE, SEARCHED
    from topolearn.runs.tensor_files import save_tensors

    searched = loads(
        "topolearn: 1\nname: tiny\ninputs: {image: [3, 8, 8]}\nnodes:\n  a[1..2]: {op: relu}\n  b: {op: relu}\n"
        'edges:\n  - {from: image, to: "a[1..2]"}\n  - {from: "a[1..2]", to: b, learnable: true}\noutputs: [b]\n'
    )
    learner = topolearn.learners.MaskConnect(searched, fan_in=1)
    with torch.no_grad():
        learner.mask.copy_(torch.tensor(masks))
    folder.mkdir()
    config = {"graph": "tiny", "task": "classification", "learner": "maskconnect", "learner_options": {"fan_in": 1}}
    config |= {"data": "digits", "input_size": {}, "mean": (), "std": (), "classes": (), "batch_size": 1}
    (folder / CONFIG).write_text(write_config(config), encoding="utf-8")
    net = topolearn.compile(searched, learner)
    save_tensors(folder / SEARCH_STATE, net.state_dict(), {})
    topolearn.dump_graph(searched, folder / SEARCHED)
    topolearn.dump_graph(topolearn.prune(net).graph, folder / GRAPH)
    return folder


def test_what_a_terminal_cannot_show_is_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "\u00e4.yaml").write_text("nodes: 3")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = process("show", "digits", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xd7" in done.stdout  # the sign between the sides of a map
    done = process("validate", str(tmp_path / "\u00e4.yaml"), env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "\\xe4.yaml" in done.stdout + done.stderr


class TestShow:
    def test_a_summary_and_a_row_per_node(self, run: Run) -> None:
        status, out, err = run("show", "resnet38-cifar100")
        assert (status, err) == (0, "")
        assert "153 learnable" in out
        assert "567,220 parameters" in out
        assert len(out.splitlines()) == 3 + 1 + 21

    def test_json_is_one_object_with_the_counts(self, run: Run) -> None:
        status, out, err = run("show", "resnet38-cifar100", "--json")
        assert (status, err) == (0, "")
        found = json.loads(out)
        assert {key: found[key] for key in ("name", "nodes", "edges", "learnable_edges", "params", "macs")} == {
            "name": "resnet38-cifar100",
            "nodes": 21,
            "edges": 156,
            "learnable_edges": 153,
            "params": 567_220,
            "macs": 83_024_128,
        }

    def test_expand_prints_the_canonical_form(self, run: Run) -> None:
        status, out, _ = run("show", "resnet38-cifar100", "--expand")
        assert status == 0
        assert out == topolearn.load_graph("resnet38-cifar100").to_yaml()

    def test_set_changes_values_of_the_file(self, run: Run) -> None:
        _, out, _ = run("show", "resnet38-cifar100", "--json", "--set", "nodes.head.classes=10", "--set", "name=ten")
        assert json.loads(out)["params"] == 567_220 - 90 * 65
        assert json.loads(out)["name"] == "ten"

    @pytest.mark.parametrize("name", ["graph.svg", "graph.png"])
    def test_output_draws_beside_what_is_printed(self, run: Run, tmp_path: Path, name: str) -> None:
        status, out, err = run("show", "digits", "-o", str(tmp_path / name), "--json")
        assert status == 0
        assert json.loads(out)["name"] == "digits"
        assert err == f"wrote {tmp_path / name}\n"
        assert (tmp_path / name).stat().st_size > 1000
        assert run("show", "digits", "-o", str(tmp_path / name))[1] == ""

    def test_a_lifted_network_says_that_its_last_layer_is_new(self, run: Run, tmp_path: Path) -> None:
        import torch
        from torchvision.models import resnet18

        from topolearn.runs.tensor_files import read_about

        given, lifted = tmp_path / "given.pth", tmp_path / "net.yaml"
        torch.save(resnet18(num_classes=3).state_dict(), given)
        options = ("resnet18", "-o", str(lifted), "--size", "32", "--weights", str(given))
        for classes, about in ((2, {"new_layer": "fc"}), (3, {})):
            assert run("lift", *options, "--classes", str(classes))[0] == 0
            assert read_about(lifted.with_suffix(".safetensors"))["about"] == about
            first, *_ = lifted.read_text(encoding="utf-8").splitlines()
            assert first.startswith("# The last layer, 'fc', starts at random") == bool(about)
            assert topolearn.load_graph(lifted).nodes["fc"].params["classes"] == classes

    def test_a_lifted_network_shows_what_can_go(self, run: Run, tmp_path: Path) -> None:
        lifted = tmp_path / "net.yaml"
        assert run("lift", "mobilenet_v3_small", "-o", str(lifted), "--size", "32", "--classes", "3")[0] == 0
        found = json.loads(run("show", str(lifted), "--json")[1])["can_go"]
        assert len(found) == 12
        assert found[-1] == {
            "id": "features_11_block",
            "nodes": ["features_11_block"],
            "params": 294_096,
            "macs": 290_880,
        }
        status, out, err = run("show", str(lifted))
        assert (status, err) == (0, "")
        table = out.partition("\n\n")[2].splitlines()
        assert table[0].split() == ["can", "go", "nodes", "params", "%", "MACs", "%"]
        assert table[-1].split()[:5] == ["features_11_block", "1", "294,096", "19.3", "290,880"]
        assert len(table) == 1 + 12
        status, out, err = run("show", str(lifted), "--measure")
        assert (status, err) == (0, "")
        table = out.partition("\n\n")[2].splitlines()
        assert table[0].split()[-2:] == ["ms", "%"]
        assert all(float(line.split()[-2]) > 0 for line in table[1:])
        assert max(map(len, table)) <= 100
        timed = json.loads(run("show", str(lifted), "--json", "--measure")[1])["can_go"]
        assert all(row["milliseconds"] > 0 for row in timed)

    def test_a_run_shows_which_blocks_are_left(self, run: Run, tmp_path: Path) -> None:
        lifted = topolearn.lift("mobilenet_v3_small", size=32, classes=3)
        lifted.set_edge_weights([float(edge.src != "features_3_block") * edge.weight for edge in lifted.graph.edges])
        topolearn.dump_graph(lifted.graph, tmp_path / "search.yaml")
        topolearn.dump_graph(topolearn.prune(lifted).graph, tmp_path / "graph.yaml")
        table = run("show", str(tmp_path))[1].partition("\n\n")[2].splitlines()
        assert [line.split()[0] for line in table if line.endswith("removed")] == ["features_3_block"]
        assert sum(line.endswith("kept") for line in table) == 11

    def test_measure_is_for_what_can_go(self, run: Run) -> None:
        status, out, err = run("show", "digits", "--measure", "--expand")
        assert (status, out) == (2, "")
        assert err.startswith("error: --measure adds times to the table of what can be removed")
        status, out, err = run("show", "fcn-mobilenetv2-voc", "--measure")
        assert (status, out) == (2, "")
        assert "nothing can be removed from graph" in err

    def test_the_folder_of_a_run_shows_what_was_learned(self, run: Run, tmp_path: Path) -> None:
        searched = topolearn.load_graph("digits")
        keep = [True] * len(searched.edges)
        for indices in searched.candidates.values():
            keep[indices[0]] = False
        learned = KeepEdges(Topology(tuple(keep), (1.0,) * len(keep)))(searched)
        topolearn.dump_graph(searched, tmp_path / "search.yaml")
        topolearn.dump_graph(learned, tmp_path / "graph.yaml")
        _, out, _ = run("show", str(tmp_path), "--json")
        assert json.loads(out)["edges"] == len(learned.edges)
        status, _, _ = run("show", str(tmp_path), "-o", str(tmp_path / "learned.svg"))
        assert status == 0

    def test_the_matrix_of_a_graph_holds_its_weights(self, run: Run, tmp_path: Path) -> None:
        status, out, err = run("show", "digits", "--matrix", "-o", str(tmp_path / "matrix.svg"), "--json")
        assert (status, err) == (0, f"wrote {tmp_path / 'matrix.svg'}\n")
        assert json.loads(out)["name"] == "digits"
        assert "a[1..6] → b[1..6]" in (tmp_path / "matrix.svg").read_text(encoding="utf-8")

    def test_the_matrix_of_a_run_holds_what_its_learner_thought(self, run: Run, tmp_path: Path) -> None:
        folder = finished_run(tmp_path / "run", masks=[0.25, 0.75])
        status, out, err = run("show", str(folder), "--matrix", "-o", str(tmp_path / "matrix.svg"))
        assert (status, out, err) == (0, "", f"wrote {tmp_path / 'matrix.svg'}\n")
        text = (tmp_path / "matrix.svg").read_text(encoding="utf-8")
        for words in (
            "<!-- tiny: maskconnect -->",
            "<!-- .25 -->",
            "<!-- .75 -->",
            "<!-- 1 of 2 learnable edges kept;",
        ):
            assert text.count(words) == 1

    def test_the_matrix_of_a_run_without_its_search_is_an_error(self, run: Run, tmp_path: Path) -> None:
        folder = finished_run(tmp_path / "run", masks=[0.25, 0.75])
        (folder / "search.safetensors").unlink()
        status, _, err = run("show", str(folder), "--matrix", "-o", str(tmp_path / "matrix.svg"))
        assert status == 2
        assert err.startswith(
            f"error: the run in {folder} has no search.safetensors, which holds the learner's values;"
        )
        assert err.count("\n") == 1
        assert not (tmp_path / "matrix.svg").exists()

    def test_a_run_that_is_not_finished(self, run: Run, tmp_path: Path) -> None:
        folder = finished_run(tmp_path / "run", masks=[0.25, 0.75])
        (folder / "graph.yaml").unlink()
        message = f"error: the run in {folder} is not finished; go on with --resume\n"
        assert run("show", str(folder)) == (2, "", message)
        assert run("show", str(folder), "--matrix", "-o", str(tmp_path / "x.svg")) == (2, "", message)

    def test_many_nodes_are_cut(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "long.yaml"
        path.write_text(
            "topolearn: 1\nname: long\ninputs: {image: [3, 8, 8]}\nnodes:\n  n[1..100]: {op: relu}\n"
            'edges:\n  - {connect: chain, nodes: [image, "n[1..100]"]}\noutputs: [n100]\n'
        )
        _, out, _ = run("show", str(path))
        assert out.splitlines()[-1] == "… and 41 more nodes"


class TestValidate:
    def test_one_line_for_each_good_file(self, run: Run, tmp_path: Path) -> None:
        topolearn.dump_graph(topolearn.load_graph("digits"), tmp_path / "mine.yaml")
        status, out, err = run("validate", "resnet38-cifar100", str(tmp_path / "mine.yaml"))
        assert (status, err) == (0, "")
        assert [line.split(":")[0] for line in out.splitlines()] == ["ok resnet38-cifar100", f"ok {tmp_path}/mine.yaml"]

    def test_all_files_are_checked_and_one_bad_one_fails(self, run: Run, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("topolearn: 1\nname: x\nnodez: {}\n")
        status, out, err = run("validate", str(bad), "digits", str(tmp_path / "missing.yaml"))
        assert status == 2
        assert len(out.splitlines()) == 1
        assert err.splitlines() == [
            f"error: {bad}:3:1: unknown key 'nodez' of the file; did you mean 'nodes'?",
            f"error: {tmp_path / 'missing.yaml'}: no such file; check the path",
        ]

    WORDS = (
        "topolearn: 1\nname: words\ntask: next_token\ninputs: {tokens: {length: 8, vocabulary: 9}}\nnodes:\n"
        "  embed: {op: embedding, channels: 4}\n  block: {op: transformer.block, heads: 2, causal: true}\n"
        "  head: {op: token_head, classes: 9}\nedges:\n"
        "  - {connect: chain, nodes: [tokens, embed, block, head]}\noutputs: [head]\n"
    )

    @pytest.mark.parametrize(
        ("old", "new", "place", "message"),
        [
            ("causal: true", "causal: false", "7:3", "node 'block' of graph 'words' sees later tokens"),
            ("classes: 9", "classes: 7", "8:3", "input 'tokens' of graph 'words' has a vocabulary of 9, but output"),
            ("channels: 4", "channels: 4, positions: rotary", "6:3", "node 'embed' of graph 'words' leaves positions"),
        ],
    )
    def test_what_training_would_refuse(
        self, run: Run, tmp_path: Path, old: str, new: str, place: str, message: str
    ) -> None:
        file = tmp_path / "words.yaml"
        file.write_text(self.WORDS)
        assert run("validate", str(file))[0::2] == (0, "")
        file.write_text(self.WORDS.replace(old, new))
        status, out, err = run("validate", str(file))
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {file}:{place}: {message}")
        assert run("show", str(file))[0::2] == (0, "")  # it can still be looked at

    def test_what_is_seldom_meant_is_valid(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "words.yaml"
        file.write_text(self.WORDS.replace("causal: true", "causal: true, positions: rotary"))
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            status, out, err = run("validate", str(file))
        assert err.startswith(
            f"warning: {file}:6:3: node 'embed' learns positions, and attention in 'block' uses rotary"
        )
        assert (status, out.startswith(f"ok {file}: 4 nodes")) == (0, True)
        assert run("show", str(file))[0::2] == (0, "")


class TestOthers:
    def test_schema(self, run: Run) -> None:
        status, out, _ = run("schema")
        assert status == 0
        assert json.loads(out) == schema()

    def test_list_graphs_and_ops(self, run: Run) -> None:
        _, out, _ = run("list", "graphs")
        assert {"digits", "resnet38-cifar100"} <= {line.split()[0] for line in out.splitlines()}
        _, out, _ = run("list", "ops")
        assert any(line.startswith("resnext.branch ") for line in out.splitlines())
        assert any(line.startswith("align ") and "(edge)" in line for line in out.splitlines())

    def test_list_learners_and_data(self, run: Run) -> None:
        _, out, _ = run("list", "learners")
        assert {"maskconnect", "continuous", "sparsemask", "fixed"} <= {line.split()[0] for line in out.splitlines()}
        assert all(len(line.split()) > 2 for line in out.splitlines() if not line.startswith(" "))
        _, out, _ = run("list", "data")
        assert {"digits", "cifar10", "cifar100"} <= {line.split()[0] for line in out.splitlines()}

    def test_list_counts_what_there_is(self, run: Run) -> None:
        _, out, _ = run("list")
        counts = {line.split()[0]: int(line.split()[1]) for line in out.splitlines()}
        assert list(counts) == ["graphs", "learners", "ops", "data", "training"]
        for kind, count in counts.items():
            _, listed, _ = run("list", kind)
            assert count == sum(not line.startswith(" ") for line in listed.splitlines())
            assert all(len(line) <= 100 for line in listed.splitlines())

    def test_list_one_thing_with_its_options(self, run: Run) -> None:
        _, out, _ = run("list", "learners", "toponet")
        assert out.startswith("Continuous edge weights under a sparsity penalty (TopoNet)\n")
        assert "\n  threshold = 0.05\n      tau: an edge stays if its |alpha| is at least tau times" in out
        assert "\n  budget = null\n" in out  # of the base's docstring
        _, out, _ = run("list", "ops", "identity")
        assert [line for line in out.splitlines() if line.startswith("  ")] == []
        _, out, _ = run("list", "ops", "resnext.branch")
        assert "\n  width\n      Bottleneck width of this branch.\n" in out
        _, out, _ = run("list", "training", "phases")
        assert out.startswith("\n  phases = {}\n      Phase name -> share of the epochs")
        _, out, _ = run("list", "training")
        assert (
            "milestones = [0.5, 0.75]  For schedule 'step': where the learning rate drops, as shares of the phase\n"
            in out
        )

    def test_training_options_have_other_defaults_for_text(self, run: Run) -> None:
        _, out, _ = run("list", "training")
        lines = [line for line in re.sub(r"\s*\n\s+", " ", out).splitlines() if "for text:" in line]
        assert [(line.split()[0], line.rpartition("(for text: ")[2]) for line in lines] == [
            ("optimizer", "adamw)"),
            ("betas", "[0.9, 0.95])"),
            ("weight_decay", "0.1)"),
            ("decay", "matrices)"),
            ("lr_floor", "0.1)"),
            ("warmup_epochs", "1.0)"),
            ("clip_grad_norm", "1.0)"),
        ]
        assert "\n  decay = all (for text: matrices)\n" in run("list", "training", "decay")[1]

    def test_version(self, run: Run) -> None:
        assert run("--version") == (0, f"topolearn {topolearn.__version__}\n", "")


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("show", "resnet38-cifar10"), "there is no graph 'resnet38-cifar10'; did you mean 'resnet38-cifar100'?"),
            (("show", "missing/graph.yaml"), "missing/graph.yaml: no such file; check the path"),
            (
                ("show", "digits", "--set", "classes"),
                "--set classes: write it as KEY=VALUE, such as nodes.head.classes=10",
            ),
            (("show", "digits", "--set", "nodes.haed.classes=1"), "there is no 'haed' in "),
            (("show", "digits", "--set", "nodes.head.classes=x"), "--set nodes.head.classes=x: 'classes' of op"),
            (("show", "digits", "--json", "--expand"), "--json and --expand print different things; choose one"),
            (("list", "learners", "maskconect"), "unknown learner 'maskconect'; did you mean 'maskconnect'?"),
            (("list", "ops", "konv"), "unknown op 'konv'; did you mean 'conv'?"),
            (("list", "training", "sceme"), "training has no setting 'sceme'; did you mean 'schedule'?"),
            (("list", "graphs", "digits"), "a graph has no options; use 'topolearn show digits'"),
            (("list", "data", "voc"), "data sets have no options of their own; see 'topolearn list training'"),
            (("show", "digits", "--matrix"), "--matrix draws a picture; name its file with -o FILE.svg"),
            (("show", "digits", "--matrix", "-o", "x.gif"), "cannot draw to 'x.gif'; give it one of the endings"),
            (("show", "digits", "-o", "picture.jpg"), "cannot draw to 'picture.jpg'; give it one of the endings"),
            (("show", "digits", "-o", "missing/x.svg"), "cannot write missing/x.svg: No such file or directory"),
        ],
    )
    def test_what_a_user_did_is_one_line_and_status_2(
        self, run: Run, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_the_place_in_the_file_comes_first(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text("topolearn: 1\nname: x\ninputs: {image: [3, 8, 8]}\nnodes: {a: {op: konv}}\n")
        status, _, err = run("show", str(path))
        assert (status, err) == (2, f"error: {path}:4:17: unknown op 'konv'; did you mean 'conv'?\n")

    @pytest.mark.parametrize(
        "arguments", [("shw",), ("show",), ("show", "digits", "--jsn"), ("list", "grafs"), ("validate",), ()]
    )
    def test_typing_errors_end_with_status_2(self, run: Run, arguments: tuple[str, ...]) -> None:
        status, out, err = run(*arguments)
        assert status == 2
        assert "Traceback" not in out + err

    @pytest.mark.parametrize(
        ("raised", "status", "message"),
        [
            (KeyboardInterrupt(), 130, ""),
            (OSError(28, "No space left on device", "runs/x"), 2, "error: runs/x: No space left on device\n"),
            (OSError("odd"), 2, "error: odd\n"),
            (topolearn.TopolearnError("two\nlines"), 2, "error: two lines\n"),
        ],
    )
    def test_what_a_command_may_raise(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, message: str
    ) -> None:
        def fail(*arguments: object) -> None:
            raise raised

        monkeypatch.setattr(cli, "load", fail)
        assert run("show", "digits") == (status, "", message)

    def test_a_bug_keeps_its_traceback(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(cli, "load", fail)
        monkeypatch.setattr(sys, "argv", ["topolearn", "show", "digits"])
        with pytest.raises(ZeroDivisionError):
            cli.main()

    def test_warnings_are_one_line(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = topolearn.load_graph("digits")

        def warn(*arguments: object) -> tuple[object, None]:
            warnings.simplefilter("always")
            warnings.warn("something\nodd", stacklevel=1)
            return replace(graph), None

        monkeypatch.setattr(cli, "load", warn)
        status, _, err = run("show", "digits", "--json")
        assert (status, err) == (0, "warning: something odd\n")
        assert warnings.showwarning is not cli._warn


class TestProcesses:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("--help",),
            ("show", "--help"),
            ("show", "resnet38-cifar100"),
            ("validate", "resnet38-cifar100"),
            ("schema",),
        ],
    )
    def test_torch_is_not_imported(self, arguments: tuple[str, ...]) -> None:
        code = """
            import sys, topolearn.cli
            try:
                topolearn.cli.main()
            except SystemExit as done:
                heavy = [name for name in ("torch", "matplotlib", "sklearn", "onnx") if name in sys.modules]
                sys.exit(f"imported {heavy}" if heavy else done.code)
        """
        import textwrap

        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout

    def test_it_works_from_any_folder(self, tmp_path: Path) -> None:
        done = process("show", "digits", "--json", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["name"] == "digits"

    def test_an_error_has_no_traceback(self, tmp_path: Path) -> None:
        done = process("show", "nothing", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("error: there is no graph 'nothing'")
        assert done.stderr.count("\n") == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
    def test_a_closed_pipe_is_quiet(self) -> None:
        command = f"{sys.executable} -m topolearn schema | head -n 1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("{\n", "")
        command = f"{sys.executable} -m topolearn show resnet38-cifar100 | true"
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("", "")
