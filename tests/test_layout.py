"""The rooms of the package: what each is for, and which others it may import from. The table is the architecture.

A room imports only from rooms below it. Every import counts: those at the top of a file, those inside functions, and
those for type checkers alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "topolearn"

# From top to bottom: room, what it is for, the rooms that it imports from.
ROOMS: tuple[tuple[str, str, str], ...] = (
    (
        "cli",
        "the commands: a thin layer over the API",
        "topolearn studies prediction loggers runs distributed data recipes onnx learners format drawing report graph"
        " ops files options plugins errors _version compiler",
    ),
    (
        "topolearn",
        "the public names, each loaded on first use",
        "studies training loggers prediction lifting runs tasks data recipes pytorch onnx learners compiler tracing"
        " format graph errors _version",
    ),
    (
        "studies",
        "many runs: compare, here or on a cluster, sweep, search, prune again",
        "lifting training loggers runs tasks data samples recipes learners compiler format page drawing report graph"
        " ops options device files errors",
    ),
    (
        "training",
        "fit(): phases, loop, optimisers, CUDA capture",
        "loggers runs tasks distributed data samples recipes learners compiler format graph device errors _version",
    ),
    ("loggers", "callbacks that write a run's numbers to TensorBoard, MLflow, W&B", "runs files errors"),
    (
        "prediction",
        "images or text in; classes, masks, overlays or text out",
        "runs tasks data samples onnx compiler drawing ops device files task_kinds errors",
    ),
    ("lifting", "networks people have -> Graph, and back", "runs compiler tracing graph ops frozen errors"),
    (
        "runs",
        "the folder of a run: write, read, resume, deliver",
        "tasks data samples recipes pytorch onnx learners compiler format page drawing report graph options files"
        " errors",
    ),
    (
        "tasks",
        "what each task trains and judges by: loss, metrics, what its outputs must be",
        "distributed data samples recipes compiler graph ops task_kinds errors",
    ),
    ("distributed", "several processes", "samples errors"),
    (
        "data",
        "named sets, folders and text, as a graph reads them",
        "samples recipes graph ops task_kinds errors",
    ),
    (
        "samples",
        "what training reads: batches, seeds, augmentation; a user's own Datasets and DataLoaders",
        "graph ops task_kinds errors",
    ),
    (
        "recipes",
        "what a run was asked for: a Recipe is the request",
        "learners compiler format graph options task_kinds frozen errors",
    ),
    (
        "pytorch",
        "networks as files for PyTorch: an archive, or source code",
        "onnx compiler tracing graph ops files errors",
    ),
    (
        "onnx",
        "export, parity and provider checks, latency",
        "compiler format graph ops files task_kinds errors _version",
    ),
    ("learners", "one file per method, the rules, the protocol", "compiler graph options plugins errors"),
    (
        "compiler",
        "Graph -> Network: plan, aggregation, the modules of each op, the reference",
        "tracing graph ops errors",
    ),
    ("tracing", "what a network does, and modules of its parts", "graph errors"),
    ("format", "YAML <-> Graph", "graph ops files options plugins task_kinds errors frozen"),
    ("page", "one HTML page of plain values: tables, charts, graphs", "drawing report graph files errors"),
    ("drawing", "pictures of graphs, matrices, curves, examples; never of runs", "graph ops files errors"),
    ("report", "tables and texts", "graph ops errors"),
    ("graph", "the IR: Graph, Node, Edge, verification, passes", "ops task_kinds errors frozen"),
    ("ops", "the vocabulary: parameters, shape rule and cost rule of each op, by name", "options errors frozen"),
    ("device", "where a run computes, and in which precision", "errors"),
    ("files", "folders and files, whole or not at all", "errors"),
    ("options", "checked options, with errors a user can act on", "errors"),
    ("plugins", "ops, learners and passes of other packages", "errors"),
    ("task_kinds", "what each task is: the kind of its targets", ""),
    ("errors", "what a user can meet: what is wrong, where, what to do", ""),
    ("frozen", "an immutable, hashable mapping", ""),
    ("_version", "the version", ""),
)

ALLOWED = {name: set(others.split()) for name, _, others in ROOMS}

EXCEPTIONS = {
    # Conveniences that outside programs and notebooks call: the IR itself knows no files and no pictures.
    ("topolearn.graph.ir", "topolearn.format"),
    ("topolearn.graph.ir", "topolearn.drawing"),
    # A process of its own, which runs the command line.
    ("topolearn.studies.worker", "topolearn.cli"),
}
"""The imports that run upwards."""

NAMED = {
    # Loaded where a graph has a backbone, and only there: it needs torch.
    ("topolearn.ops.backbone", "topolearn.compiler.modules.backbone"),
    ("topolearn.ops.backbone", "topolearn.compiler.modules.timm_encoder"),
    # Started as a process.
    ("topolearn.studies.processes", "topolearn.studies.worker"),
}
"""Modules that another one names in a string instead of importing them."""

LARGEST = 0.15
"""Largest share of the lines that one room may hold."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all modules of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The room that a module is in; the package's own front door is one."""
    return module.split(".")[1] if "." in module else module


def imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in the file, and for whatever reason."""
    path = MODULES[module]
    stub = path.with_suffix(".pyi")  # says what a lazy package hands on
    for source in (path, stub) if stub.is_file() else (path,):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "topolearn")
            elif isinstance(node, ast.ImportFrom):
                # The stubs of lazy packages import from beside them; no other file may.
                assert node.level == 0 or (node.level == 1 and source == stub), f"{source} has a relative import"
                start = f"{module}.{node.module or ''}".rstrip(".") if node.level else node.module or ""
                if start.partition(".")[0] == "topolearn":
                    inner = (f"{start}.{alias.name}" for alias in node.names)
                    yield from (name if name in MODULES else start for name in inner)


def arrows() -> set[tuple[str, str]]:
    """(module, module that it imports)."""
    return {(module, other) for module in MODULES for other in imports(module) if other != module}


def statements(module: str) -> list[ast.stmt]:
    """The statements of a module, without its docstring."""
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    return body[1:] if body and isinstance(body[0], ast.Expr) else body


def test_every_file_is_in_a_room() -> None:
    assert {room(module) for module in MODULES} == {"__main__", *ALLOWED}


def test_the_table_runs_from_top_to_bottom() -> None:
    order = [name for name, _, _ in ROOMS]
    for place, name in enumerate(order):
        assert ALLOWED[name] <= set(order[place + 1 :]), f"'{name}' imports from a room above"


def test_a_room_imports_from_those_below_only() -> None:
    wrong = {
        (module, other)
        for module, other in arrows() - EXCEPTIONS
        if room(module) in ALLOWED and room(other) != room(module) and room(other) not in ALLOWED[room(module)]
    }
    assert not wrong, "a room imports from one that the table does not allow it"


def test_the_table_allows_no_more_than_there_is() -> None:
    found: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, other in arrows() - EXCEPTIONS:
        if room(module) in ALLOWED and room(other) != room(module):
            found[room(module)].add(room(other))
    assert {name: sorted(others) for name, others in found.items()} == {
        name: sorted(others) for name, others in ALLOWED.items()
    }


def test_the_exceptions_are_still_there() -> None:
    assert arrows() >= EXCEPTIONS


def test_no_circle_of_imports() -> None:
    graph = nx.DiGraph(sorted(arrows() - EXCEPTIONS))
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


def test_only_named_modules_are_imported_by_their_names() -> None:
    """An import that is no import statement escapes the table: only a module of :data:`NAMED` may be loaded so."""
    importers = {"import_module", "__import__", "find_spec", "load_module", "runpy"}
    for module in MODULES:
        text = MODULES[module].read_text(encoding="utf-8")
        used = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        assert not used & importers or module in {namer for namer, _ in NAMED}, f"{module} imports by a name"


def test_no_module_is_named_in_a_string() -> None:
    """There are those of :data:`NAMED`, and no others."""
    found = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
                found.add((module, node.value))
    found -= {(module, "topolearn") for module in MODULES}  # the name of the program
    assert found - {("topolearn.plugins", "topolearn.plugins")} == NAMED  # the name of an entry point


def test_no_room_holds_a_large_part_of_the_house() -> None:
    lines: Counter[str] = Counter()
    for module, path in MODULES.items():
        lines[room(module)] += len(path.read_text(encoding="utf-8").splitlines())
    largest, count = lines.most_common(1)[0]
    assert count <= LARGEST * lines.total(), f"'{largest}' has {count / lines.total():.1%} of the lines"


def test_a_folder_hands_names_on_and_nothing_else() -> None:
    for module, path in MODULES.items():
        if path.name != "__init__.py":
            continue
        for statement in statements(module):
            names_it = isinstance(statement, ast.Assign) and "__all__" in ast.unparse(statement.targets[0])
            text = ast.unparse(statement)
            assert names_it or isinstance(statement, ast.Import | ast.ImportFrom), f"{module} does more: {text[:80]}"


# An op and the module that computes it are in files of one name; `base` is where a room's protocol is.
SAME_NAME = {"__init__", "base", "backbone", "edges", "part", "tokens", "transformer"}


def test_files_in_different_rooms_have_different_names() -> None:
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if room(module) not in ("cli", "__main__"):  # a command's file is called as the command
            rooms.setdefault(path.stem, set()).add(room(module))
    assert {stem for stem, found in rooms.items() if len(found) > 1} <= SAME_NAME


def public_types(module: str) -> Iterator[str]:
    """Names of classes and of types that a module defines for others."""
    for statement in statements(module):
        names = [statement.name] if isinstance(statement, ast.ClassDef) else []
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        yield from (name for name in names if name[0].isupper() and not name.isupper())


def test_types_in_different_rooms_have_different_names() -> None:
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        for name in public_types(module):
            rooms.setdefault(name, set()).add(room(module))
    # An op and the module that computes it have one name.
    assert {name: found for name, found in rooms.items() if len(found) > 1 and found != {"ops", "compiler"}} == {}


OTHER_TESTS = {
    "export": "the stand-alone runner in export/",
    "plugin": "a package that is installed by a test",
    "public": "the contract with outside programs",
}


def test_the_tests_mirror_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert folders <= {*ALLOWED, *OTHER_TESTS}
    packages = {room(module) for module, path in MODULES.items() if path.name == "__init__.py"} - {"topolearn"}
    assert packages <= folders
