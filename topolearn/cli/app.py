"""The command line ``topolearn …``: a thin layer over the API.

Slow imports stand inside the command that needs them: ``--help``, ``show`` and ``validate`` work without torch.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from topolearn._version import __version__
from topolearn.cli.common import FAILED, GraphName, Settings, complain, is_run, load, overrides, print_table, say
from topolearn.cli.lift import lift
from topolearn.cli.listing import list_
from topolearn.cli.predict import predict
from topolearn.cli.report import report
from topolearn.cli.training import add_commands
from topolearn.errors import OptionError, TopolearnError, tell
from topolearn.options import plain_words

if TYPE_CHECKING:
    from topolearn.graph import Graph
    from topolearn.graph.price import Prices

app = typer.Typer(
    name="topolearn",
    help="Learn which connections of a network to keep, prune the rest, export to ONNX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_commands(app)  # fit, compare, prune, export, bench
app.command()(lift)
app.command()(predict)
app.command()(report)
app.command(name="list")(list_)


INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as in shells."""
_MISUSE: Any = typer.BadParameter.__mro__[2]
"""What Typer raises about a command line: the base class of all such errors, which it exports under no name."""
PIPE_CLOSED = 141
"""Exit status if the reader of the output has closed the pipe: 128 + SIGPIPE."""


# -- commands ----------------------------------------------------------------------------------


def _version(asked: bool) -> None:
    if asked:
        print(f"topolearn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def show(
    graph: GraphName,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts and costs as one JSON object.")] = False,
    expand: Annotated[bool, typer.Option("--expand", help="Print the canonical form, macros expanded.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Draw the graph to an SVG or PNG file.")
    ] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="With -o: draw the adjacency matrix, with each learnable edge's value.")
    ] = False,
    measured: Annotated[
        bool, typer.Option("--measure", help="Measure the milliseconds of what can go, on this machine's CPU.")
    ] = False,
    settings: Settings = None,
) -> None:
    """Show a graph: its nodes with their shapes, parameters and multiply-accumulates.

    For a lifted network, a second table shows the branches and blocks that a search can remove, and what each
    costs. GRAPH may also be the folder of a run. The picture then shows the learned graph within the searched
    one, the matrix the learner's masks, weights or gates at the end of the search.
    """
    if as_json and expand:
        raise OptionError("--json and --expand print different things; choose one of them")
    if matrix and output is None:
        raise OptionError("--matrix draws a picture; name its file with -o FILE.svg")
    if measured and not as_json and (expand or output is not None):
        raise OptionError(
            "--measure adds times to the table of what can be removed, but this command does not print it; leave it out"
        )
    from topolearn.graph import is_by_block, removables

    shown, searched = load(graph, overrides(settings))
    of = shown if searched is None else searched
    if measured and not removables(of):
        raise OptionError(
            f"--measure: nothing can be removed from graph '{of.name}' with its learnable edges; leave it out"
        )
    times = _times(of) if measured else None
    # In a graph whose blocks are read by many, a search chooses among edges: a table of blocks would say little.
    asked = measured or is_by_block(of)
    if output is not None:
        _draw(graph, shown, searched, output, matrix)
        tell(f"wrote {output}")
    if as_json:
        import json

        from topolearn.report import block_facts, facts

        print(json.dumps({**facts(shown), **({"can_go": block_facts(of, times)} if asked else {})}))
    elif expand:
        print(shown.to_yaml(), end="")
    elif output is None:
        from topolearn.report import block_table, headline, node_table

        say(headline(shown), kept="\n")
        print_table(node_table(shown, searched))
        table = block_table(of, None if searched is None else shown, times) if asked else None
        if table is not None:
            say("")
            print_table(table)


def _times(graph: Graph) -> Prices:
    from topolearn.compiler import measure

    return measure(graph)


def _draw(name: str, shown: Graph, searched: Graph | None, output: Path, matrix: bool) -> None:
    from topolearn.drawing import adjacency, draw

    if not matrix:
        draw(shown, output, searched)
    elif is_run(name):
        from topolearn.runs import read_learned

        learned = read_learned(name)
        adjacency(learned.searched, output, learned.values, learned.kept, learned.title)
    else:
        adjacency(shown, output)


@app.command()
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Graph files, or names of shipped graphs.")],
) -> None:
    """Check graph files: one line each, 'ok' or what is wrong; exit status 2 if any is wrong.

    For graphs of tokens, this includes what `fit` would refuse without a loss of your own. A warning points at what is
    valid, but seldom meant.
    """
    from topolearn.format import check_graph
    from topolearn.report import facts, resolution

    failed = False
    for file in files:
        try:
            graph = check_graph(file)
            known, maps = facts(graph), resolution(graph)
        except TopolearnError as error:
            complain(str(error))
            failed = True
        else:
            say(
                f"ok {file}: {known['nodes']:,} nodes, {known['edges']:,} edges"
                f" ({known['learnable_edges']:,} learnable), {known['params']:,} parameters{maps and f'; {maps}'}"
            )
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def schema() -> None:
    """Print the JSON schema of graph files, for editors."""
    import json

    from topolearn.format import schema as graph_schema
    from topolearn.plugins import load_plugins

    load_plugins()
    print(json.dumps(graph_schema(), indent=2))


# -- running -----------------------------------------------------------------------------------


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    tell(f"warning: {' '.join(str(message).split())}")


def main() -> None:
    """Run the command line; a user's error prints one line and gives exit status 2."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may contain characters that a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        status = _run()
        try:
            sys.stdout.flush()
        except OSError as error:
            status = status or _failed(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python flushes it again at exit; let that succeed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Started by torchrun. Sometimes a thread of torch.distributed outlives its process group, and aborts
        # the process while it destroys its C++ statics. Everything has been written by now.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _open_streams() -> None:
    """Open stdin, stdout and stderr on the null device if they are closed, before another file gets their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "w" if number else "r", encoding="utf-8"))


def _run() -> int:
    streams = sys.stdout, sys.stderr
    try:
        return app(prog_name="topolearn", standalone_mode=False) or 0
    except _MISUSE as error:
        if not sys.argv[1:]:  # Typer has shown the help
            return FAILED
        complain(_misuse(error))
        return FAILED
    except SystemExit as done:
        if sys.stdout is not streams[0]:  # Typer replaces it when the reader of the output has closed the pipe
            sys.stdout, sys.stderr = streams
            return PIPE_CLOSED
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except TopolearnError as error:
        complain(str(error))
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        return _failed(error)


def _misuse(error: Any) -> str:
    """Return a complaint of Typer about the command line, in one line and in plain words."""
    message = error.format_message().rstrip(".")
    invalid = re.fullmatch(r"Invalid value for (.+?): (.+)", message, re.DOTALL)
    if invalid is not None:
        name, text = invalid[1], plain_words(invalid[2])
        message = f"{name} {text}" if text.startswith("should") else f"{name}: {text}"
    else:
        message = f"{message[0].lower()}{message[1:]}"
    command = "topolearn" if error.ctx is None else error.ctx.command_path
    return message if message.endswith("?") else f"{message}; see '{command} --help'"


def _failed(error: OSError) -> int:
    """Report an error of the system, except a pipe that its reader closed; return the exit status."""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    where = f"{error.filename}: " if error.filename else ""
    complain(f"{where}{error.strerror or error}")
    return FAILED
