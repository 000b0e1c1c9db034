"""What an exported file says of itself, read with care: it may be a stranger's, and so may the names in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from topolearn.errors import ExportError, Location, printable
from topolearn.onnx.export import METADATA_KEY


class AboutTask(BaseModel):
    """What every exported file says.

    Attributes:
        task: What the network is for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    task: Annotated[str, AfterValidator(printable)]


_Kind = TypeVar("_Kind", bound=AboutTask)


def metadata_of(session: Any, path: Path) -> str:
    """The metadata of an open file, JSON that nobody has checked yet.

    Raises:
        ExportError: It has none.
    """
    text: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ExportError("has no metadata of topolearn; export it with `topolearn export`", Location(str(path)))
    return text


def read_metadata(kind: type[_Kind], text: str, path: Path) -> _Kind:
    """Metadata, checked.

    Raises:
        ExportError: Something in them is wrong.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, first_error(error)) from None


def damaged(path: Path, why: str) -> ExportError:
    """The error of a file whose metadata are wrong."""
    return ExportError(f"its metadata are damaged ({why}); export it anew", Location(str(path)))


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def ports(session: Any) -> str:
    """Inputs and outputs of an open file, for errors."""
    found = (*session.get_inputs(), *session.get_outputs())
    return ", ".join(f"{each.name}: {each.type} {each.shape}" for each in found)
