"""Give every reader of files damaged and hostile ones: nothing may fail but with one line, hang, or fill the memory.

    python -m benchmarks.fuzz [--inputs 10000] [--onnx 500] [--seed 0] [--reader NAME …] [--keep DIR]

Inputs are made from good files: bytes are changed, cut out, repeated and mixed, numbers become huge, words that mean
something to the reader are put in. Packed files are also changed inside. A reader may return, or raise a
TopolearnError. All else is a failure: another exception, more than 5 s of processor time, 1 GiB more memory, a crash.
``export/run_onnx.py`` runs in a process of its own for each input; crashes of ONNX Runtime itself are counted apart.
Prints a table, and each kind of failure once, with the seed of its input. ``--keep`` writes these inputs to a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import topolearn
from topolearn.errors import TopolearnError
from topolearn.format import load_graph, loads
from topolearn.recipes import load_recipe
from topolearn.runs import read_result
from topolearn.runs.checkpoint import Checkpoint
from topolearn.runs.finished import read_finished
from topolearn.runs.movement import read_movement
from topolearn.runs.tensor_files import load_into, load_tensors, read_about

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEMORY = 5.0, 2**30
"""What one input may cost: processor time, and bytes above what the process had before."""
PATIENCE = 120.0
"""Seconds after which an input that stays outside of Python is ended."""
WORDS = {
    "yaml": (
        *(
            "!!python/object/apply:os.system",
            "&a",
            "*a",
            "<<: *a",
            "%YAML",
            "---",
            "\t",
            "\x00",
            "\ufeff",
            "\U0001f600",
        ),
        *("{", "}", "[", "]", ": ", "- ", "? ", "|", ">", "'", '"', "#", "null", "true", ".nan", ".inf", "1e999", "-1"),
        *("[1..99999999]", "a[1..9999]", "learnable: true", "connect: complete", "start: chain", "op: conv"),
        *("channels: 1000000000", "stride: 0", "weight: .inf", "input: {channels: 1}", "share: {a: b}", "outputs: []"),
    ),
    "json": ("{", "}", "[", "]", "null", "NaN", "Infinity", "1e999", "-1", '"', "\\ud800", "9" * 400, "[" * 2000),
    "binary": (
        "\x00" * 8,
        "\xff" * 8,
        "PK\x03\x04",
        "cos\nsystem\n",
        "\x80\x02",
        "F64",
        "I999",
        '"shape":[9999999999]',
    ),
}
"""Kind of a reader -> words to put in."""
NUMBERS = ("0", "-1", "1", "2147483648", "9223372036854775808", "1000000", "1e308", "0.1", "nan", "1" * 50)

Read = Callable[[Path], object]
Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        kind: The kind of its words, see ``WORDS``.
        seeds: Good files.
        read: Reads the file; takes its path.
        name: Name of the file.
        inside: Changes a packed file inside; None for files that are not packed.
    """

    kind: str
    seeds: Sequence[bytes]
    read: Read
    name: str
    inside: Change | None = None


# -- inputs --------------------------------------------------------------------------------------


def mutated(data: bytes, numbers: random.Random, kind: str, others: Sequence[bytes]) -> bytes:
    """Change a file at a few places."""
    for _ in range(numbers.choice((1, 1, 1, 2, 3, 8))):
        size = len(data)
        start = numbers.randrange(size + 1)
        end = min(size, start + int(numbers.expovariate(1 / 20)))
        change = numbers.randrange(9)
        if change == 0:
            data = data[:start] + bytes([numbers.randrange(256)]) + data[start + 1 :]
        elif change == 1:
            data = data[:start] + data[end:]
        elif change == 2:
            data = data[:end] + data[start:end] * numbers.choice((1, 2, 50)) + data[end:]
        elif change == 3:
            data = data[:start] + numbers.randbytes(numbers.randrange(1, 9)) + data[start:]
        elif change == 4:
            data = data[:start] + numbers.choice(WORDS[kind]).encode() + data[start:]
        elif change == 5:
            data = data[:start]
        elif change == 6:
            found = [match.span() for match in re.finditer(rb"\d+(\.\d+)?", data)]
            if found:
                first, last = numbers.choice(found)
                data = data[:first] + numbers.choice(NUMBERS).encode() + data[last:]
        elif change == 7:
            other = numbers.choice(others)
            place = numbers.randrange(len(other) + 1)
            data = data[:start] + other[place : place + numbers.randrange(1, 200)] + data[end:]
        else:
            lines = data.split(b"\n")
            one, two = numbers.randrange(len(lines)), numbers.randrange(len(lines))
            lines[one], lines[two] = lines[two], lines[one]
            data = b"\n".join(lines)
    return data


def in_zip(data: bytes, numbers: random.Random) -> bytes:
    """Change one of the files in an archive that torch.save wrote."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(target, "w") as made:
        names = given.namelist()
        chosen = numbers.choice([name for name in names if name.endswith("data.pkl")] * len(names) + names)
        for name in names:
            content = given.read(name)
            made.writestr(name, mutated(content, numbers, "binary", [content]) if name == chosen else content)
    return target.getvalue()


def in_header(data: bytes, numbers: random.Random) -> bytes:
    """Change the header of a safetensors file, and write its length anew."""
    length = int.from_bytes(data[:8], "little")
    header = mutated(data[8 : 8 + length], numbers, "json", [data[8 : 8 + length]])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def made(reader: Reader, seed: str) -> bytes:
    """Make the input of a seed."""
    numbers = random.Random(seed)
    data = numbers.choice(reader.seeds)
    if reader.inside is not None and numbers.random() < 0.5:
        return reader.inside(data, numbers)
    return mutated(data, numbers, reader.kind, reader.seeds)


# -- readers -------------------------------------------------------------------------------------

SMALL = """
topolearn: 1
name: small
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 3}
  a[1..3]: {op: conv_bn_relu, out_channels: 3, aggregate: mean}
  head: {op: classifier, classes: 4}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "a[1..3]"], learnable: true}
  - {from: a3, to: head}
outputs: [head]
"""


def run(folder: Path, **options: Any) -> None:
    """Train a small network for a moment."""
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    data = torch.utils.data.TensorDataset(images, labels)
    settings = {"epochs": 2, "batch_size": 4, "device": "cpu", "quiet": True, "out": folder} | options
    topolearn.fit(loads(SMALL), "maskconnect", (data, data), **settings)


def stopped(folder: Path) -> None:
    """Leave a checkpoint in a folder."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run(folder, callbacks=[stop], training={"checkpoint_steps": 1})


def pictures() -> list[bytes]:
    """Return small images in several formats and modes."""
    noise = Image.effect_noise((8, 8), 50)
    forms = {
        "PNG": ("RGB", "P", "L"),
        "JPEG": ("RGB",),
        "BMP": ("RGB",),
        "GIF": ("P",),
        "TIFF": ("RGB",),
        "PPM": ("RGB",),
    }
    images = [(noise.convert(mode), form) for form, modes in forms.items() for mode in modes]
    found = []
    for image, form in (*images, (noise.convert("RGB"), "WEBP")):
        buffer = io.BytesIO()
        image.save(buffer, form)
        found.append(buffer.getvalue())
    return found


def readers(folder: Path) -> dict[str, Reader]:
    """Return the readers by name; good files are made in ``folder``."""
    run(folder / "run", export=False)
    stopped(folder / "stopped")
    graphs = [path.read_bytes() for path in sorted((ROOT / "graphs").glob("*.yaml")) if path.stat().st_size < 4000]
    recipes = [path.read_bytes() for path in sorted((ROOT / "models").glob("*.yaml"))]
    net = topolearn.compile(loads(SMALL), topolearn.learners.MaskConnect(loads(SMALL)))
    finished = {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}

    def read_graph(path: Path) -> object:
        graph = load_graph(path)
        return graph.cost, graph.to_yaml() if len(graph.edges) < 10_000 else None

    def read_recipe(path: Path) -> object:
        return load_recipe(path, {}).searched.cost

    def read_checkpoint(path: Path) -> object:
        checkpoint = Checkpoint.read(path.parent.parent)
        if checkpoint is not None:
            loads(str(checkpoint.graph))
            load_into(net, checkpoint.network, path)
        return checkpoint

    def read_tensors(path: Path) -> object:
        return load_tensors(path), read_about(path)

    def read_run(name: str) -> Read:
        def read(path: Path) -> object:
            for other, data in finished.items():
                if other != name:
                    (path.parent / other).write_bytes(data)
            result = read_finished(path.parent)
            read_movement(path.parent, result.searched)
            return read_result(path.parent)

        return read

    def read_images(path: Path) -> object:
        for other in ("train/b/0.png", "val/a/0.png", "val/b/0.png"):
            place = path.parents[2] / other
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (9, len(other), 0)).save(place)
        data = topolearn.load_data(str(path.parents[2]))
        return list(data.train_batches(1, seed=0, epoch=0)), list(data.val_batches(2))

    found = {
        "graph files": Reader("yaml", graphs, read_graph, "graph.yaml"),
        "recipes": Reader("yaml", recipes, read_recipe, "recipe.yaml"),
        "checkpoints": Reader(
            "binary",
            [(folder / "stopped" / "checkpoint" / "state.pt").read_bytes()],
            read_checkpoint,
            "checkpoint/state.pt",
            in_zip,
        ),
        "safetensors": Reader("binary", [finished["weights.safetensors"]], read_tensors, "w.safetensors", in_header),
        "images": Reader("binary", pictures(), read_images, "train/a/image.png"),
    }
    for name in ("config.yaml", "history.jsonl", "search.yaml", "graph.yaml", "weights.safetensors", "movement.f32"):
        kind = {"yaml": "yaml", "jsonl": "json"}.get(name.rpartition(".")[2], "binary")
        found[f"a run's {name}"] = Reader(kind, [finished[name]], read_run(name), name)
    return found


# -- trying --------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of the inputs of a reader.

    Attributes:
        counts: How they ended -> number.
        failures: Kind of failure -> seed of the first such input.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, seed: str, ended: str, failure: str = "") -> None:
        """Count an input."""
        self.counts[ended] += 1
        if failure:
            self.failures.setdefault(failure, seed)


class Hang(BaseException):
    """An input took too long."""


def _too_long(*_: object) -> None:
    raise Hang


def attempt(reader: Reader, path: Path, data: bytes) -> tuple[str, str]:
    """Read one input; return how it ended, and the kind of failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)
        ended = "read", ""
    except TopolearnError as error:
        ended = ("refused", "") if "\n" not in error.message else ("failed", f"several lines: {error.message[:200]}")
    except Hang:
        ended = "failed", f"more than {SECONDS:.0f} s: {_where(sys.exc_info()[2])}"
    except Exception as error:
        ended = "failed", f"{type(error).__name__}: {str(error)[:120]} in {_where(error.__traceback__)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > MEMORY:
        ended = "failed", f"more than {MEMORY >> 20} MiB"
    return ended


def _where(trace: Any) -> str:
    """Return the last place in this package that an error went through."""
    frames = [frame for frame in traceback.extract_tb(trace) if "/topolearn/" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "another package"


def try_reader(name: str, reader: Reader, inputs: int, seed: int) -> Outcome:
    """Try a reader in a process of its own, which is started again where a crash has ended it."""
    outcome, number = Outcome(), 0
    while number < inputs:
        for line in worker(name, reader, number, inputs, seed):
            number = line["number"] + 1
            outcome.add(f"{seed}/{name}/{line['number']}", line["ended"], line["failure"])
    return outcome


def worker(name: str, reader: Reader, first: int, inputs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Try inputs from ``first`` on in a process of its own; yield what became of each."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.close(source)
        _work(name, reader, first, inputs, seed, sink)
    os.close(sink)
    number = first
    with os.fdopen(source, encoding="utf-8") as lines:
        while number < inputs:
            ready = select.select([lines], [], [], PATIENCE)[0]
            text = lines.readline() if ready else ""
            if not text:
                break
            yield json.loads(text)
            number += 1
    if number < inputs:  # it hangs in another package, or has crashed
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        yield {"number": number, "ended": "failed", "failure": f"the process ended with status {status}"}
    else:
        os.waitpid(child, 0)


def _work(name: str, reader: Reader, first: int, inputs: int, seed: int, sink: int) -> None:
    try:
        signal.signal(signal.SIGPROF, _too_long)
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        warnings.simplefilter("ignore")
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MEMORY, resource.RLIM_INFINITY))
        with tempfile.TemporaryDirectory() as folder, os.fdopen(sink, "w", encoding="utf-8") as lines:
            place = Path(folder) / "input"
            for good in reader.seeds if first == 0 else ():
                ended, failure = attempt(reader, place / reader.name, good)
                shutil.rmtree(place)
                if ended != "read":  # then a refused input would say nothing
                    lines.write(
                        json.dumps({"number": inputs, "ended": "failed", "failure": "a good file is refused"}) + "\n"
                    )
                    return
            for number in range(first, inputs):
                ended, failure = attempt(reader, place / reader.name, made(reader, f"{seed}/{name}/{number}"))
                shutil.rmtree(place)
                lines.write(json.dumps({"number": number, "ended": ended, "failure": failure}) + "\n")
                lines.flush()
    finally:
        os._exit(0)


# -- the runner of exported files -----------------------------------------------------------------

ONNX = "run_onnx.py"


def onnx_reader(folder: Path) -> Reader:
    """Return the reader of exported files: the stand-alone script, in a process for each."""
    file = topolearn.export_onnx(topolearn.compile(loads(SMALL)).eval(), folder / "small.onnx").path
    return Reader("binary", [file.read_bytes()], lambda path: path, "small.onnx")


def try_onnx(reader: Reader, inputs: int, seed: int, folder: Path) -> Outcome:
    """Try the script that runs exported files."""
    image, model = folder / "image.png", folder / "model.onnx"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(image)
    command = [sys.executable, str(ROOT / "export" / "run_onnx.py"), str(model), str(image)]
    outcome = Outcome()
    for number in range(inputs):
        model.write_bytes(made(reader, f"{seed}/{ONNX}/{number}"))
        ended, failure = _run_script(command)
        outcome.add(f"{seed}/{ONNX}/{number}", ended, failure)
    return outcome


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 10, int(SECONDS) + 10))  # it takes seconds to start
    resource.setrlimit(resource.RLIMIT_AS, (8 * MEMORY, 8 * MEMORY))


def _run_script(command: Sequence[str]) -> tuple[str, str]:
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, preexec_fn=_limits, check=False
        )
    except subprocess.TimeoutExpired:
        return "failed", "hangs"
    if ran.returncode == -signal.SIGXCPU:
        return "failed", f"more than {SECONDS:.0f} s"
    if ran.returncode < 0:
        return "crashed", ""
    lines = ran.stderr.strip().splitlines()
    if ran.returncode == 0:
        return "read", ""
    if ran.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        return "refused", ""
    return "failed", f"status {ran.returncode}: {' / '.join(lines[-2:])[:300]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs for each reader")
    parser.add_argument("--onnx", type=int, default=500, help="inputs for run_onnx.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="only these readers")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        known = readers(folder) | {ONNX: onnx_reader(folder)}
        print(f"seed {args.seed}\n\n| reader | inputs | read | refused | crashed | failed |\n|---|" + "---:|" * 5)
        for name in args.reader or known:
            reader = known[name]
            count = args.onnx if name == ONNX else args.inputs
            outcome = (
                try_onnx(reader, count, args.seed, folder)
                if name == ONNX
                else try_reader(name, reader, count, args.seed)
            )
            cells = [f"{outcome.counts[each]:,}" for each in ("read", "refused", "crashed", "failed")]
            print(f"| {name} | {count:,} | {' | '.join(cells)} |", flush=True)
            for failure, seed in outcome.failures.items():
                failed = True
                print(f"  {failure} (seed {seed})", flush=True)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / seed.replace("/", "_").replace(" ", "_")).write_bytes(made(reader, seed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
