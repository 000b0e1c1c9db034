"""Reads and checks the metadata of exported files; the files and the names in them are untrusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from topolearn.errors import ExportError, Location, printable
from topolearn.onnx.export import METADATA_KEY


class AboutTask(BaseModel):
    """The metadata that every exported file has.

    Attributes:
        task: The task of the network.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    task: Annotated[str, AfterValidator(printable)]


NOT_FINITE = "the network gives infinite values or NaN; train it again, or export it in float32"
"""The error for an answer that is no number."""

_Kind = TypeVar("_Kind", bound=AboutTask)


def metadata_of(session: Any, path: Path) -> str:
    """Return the metadata of an open file, as unchecked JSON.

    Raises:
        ExportError: The file has no metadata.
    """
    text: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ExportError("has no metadata of topolearn; export it with `topolearn export`", Location(str(path)))
    return text


def read_metadata(kind: type[_Kind], text: str, path: Path) -> _Kind:
    """Parse and check metadata.

    Raises:
        ExportError: A value is missing or wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, first_error(error)) from None


def damaged(path: Path, why: str) -> ExportError:
    """Return the error for a file with wrong metadata."""
    return ExportError(f"its metadata are damaged ({why}); export it again", Location(str(path)))


def first_error(error: ValidationError) -> str:
    """Return the first mistake that validation found, and its place."""
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def ports(session: Any) -> str:
    """Describe the inputs and outputs of an open file, for errors."""
    found = (*session.get_inputs(), *session.get_outputs())
    return ", ".join(f"{each.name}: {each.type} {each.shape}" for each in found)
