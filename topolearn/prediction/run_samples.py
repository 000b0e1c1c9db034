"""What a run's network does with a few validation examples, as pictures or text, to show in a page about the run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from topolearn.data.text import BYTES
from topolearn.errors import DataError
from topolearn.prediction.continuing import continue_text
from topolearn.prediction.examples import draw_examples
from topolearn.runs import load_model, read_config
from topolearn.runs.folder import CONFIG
from topolearn.runs.report_page import RunSample
from topolearn.runs.searched import find_data
from topolearn.samples.base import listed
from topolearn.task_kinds import kind_of

PROMPT, LENGTH, TEMPERATURE = 64, 400, 0.8
"""Tokens of validation text in front of a sample, tokens that the network adds, and their temperature."""


def run_samples(run_dir: str | Path, data_root: str | Path | None = None) -> RunSample | None:
    """Show what a finished run's network does: masks of three validation images, or the continuation of a text.

    Args:
        run_dir: The folder of the run.
        data_root: Folder of data sets to look in.

    Returns:
        What to show in a page; None for classes of images, and for tokens that are not bytes.

    Raises:
        TopolearnError: The run or its data are not found.
    """
    folder = Path(run_dir)
    graph = load_model(folder).graph
    kind = kind_of(graph.task)
    if kind.is_dense:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "examples.svg"
            draw_examples(folder, path, data_root=data_root, device="cpu")
            text = path.read_text(encoding="utf-8")
        return RunSample("Examples", svg=text[text.index("<svg") :])
    if not kind.is_text:
        return None
    data = find_data(read_config(folder / CONFIG), graph, root=data_root)
    if data.info.vocabulary > BYTES:
        return None
    inputs, _ = next(iter(data.val_batches(1)), (None, None))
    if inputs is None:
        raise DataError(f"'{data.info.name}' has no validation text")
    prompt = listed(inputs)[0][0, :PROMPT].tolist()
    added = continue_text(folder, prompt, length=LENGTH, temperature=TEMPERATURE, device="cpu")
    before, after = (bytes(ids).decode(errors="replace") for ids in (prompt, added))
    return RunSample("Sample text", text=f"{before}\n[here the network goes on]\n{after}")
