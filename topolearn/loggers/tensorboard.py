"""The history of a run in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import OptionError, utf8
from topolearn.loggers.base import Logger, numbers
from topolearn.runs import FitResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger(Logger):
    """Writes curves for TensorBoard, such as ``search/val_accuracy``. Needs ``topolearn-torch[tensorboard]``.

    If TensorBoard is installed, every run with a folder has one, also if you do not ask for it.

    Args:
        folder: Where to write; None for ``tensorboard/`` in the folder of the run.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise OptionError("TensorBoard is not installed; run: pip install 'topolearn-torch[tensorboard]'") from None
        self._open = SummaryWriter
        self.folder = None if folder is None else Path(folder)

    @staticmethod
    def can_write(folder: Path) -> bool:
        """Whether TensorBoard can write to a folder: its name must be UTF-8."""
        return utf8(str(folder)) == str(folder)

    def begin(self, config: Mapping[str, Any], out: Path | None, history: Sequence[Mapping[str, Any]]) -> None:
        """Find the folder; it is made with the first record.

        Raises:
            OptionError: There is no folder, or TensorBoard cannot write to it.
        """
        folder = self.folder
        if folder is None:
            if out is None:
                raise OptionError("TensorBoardLogger has no folder to write to; give one to it, or to the run as 'out'")
            folder = out / "tensorboard"
        if not self.can_write(folder):
            raise OptionError(f"TensorBoard cannot write to {folder}, whose name is not UTF-8; choose another folder")
        self._place, self._step = folder, len(history)
        self._writer: SummaryWriter | None = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of an epoch, under the name of its phase."""
        if self._writer is None:
            self._writer = self._open(str(self._place))
        for name, value in numbers(record).items():
            self._writer.add_scalar(f"{record['phase']}/{name}", value, self._step)
        self._step += 1

    def end(self, result: FitResult | None, error: BaseException | None) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
