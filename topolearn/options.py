"""Checked options: one way from a mapping to a pydantic model, with errors a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from topolearn.errors import OptionError, shown, suggest

ModelT = TypeVar("ModelT", bound=BaseModel)


class InvalidOption(OptionError):
    """An option that does not fit.

    Attributes:
        path: Keys that lead to the option, outermost first.
    """

    def __init__(self, message: str, path: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path


def validate(model: type[ModelT], values: Mapping[str, Any], what: str) -> ModelT:
    """Make ``model`` from ``values``.

    Args:
        model: A pydantic model.
        values: Its fields.
        what: How an error calls the thing whose options these are.

    Raises:
        InvalidOption: The first thing that is wrong, in one line.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # A misspelt key leaves another one missing; the spelling is what to mend.
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
        path = tuple(str(part) for part in first["loc"])
        name = ".".join(path)
        match first["type"]:
            case "extra_forbidden":
                known = [field for field in model.model_fields if field not in values]
                message = f"unknown parameter '{name}' of {what}{suggest(path[-1], known)}"
            case "missing":
                message = f"{what} needs '{name}'"
            case _:
                text = first["msg"].removeprefix("Value error, ")
                text = text.removesuffix(" after validation").replace(" after validation,", ",")
                for kind in ("Input ", "Tuple ", "Dictionary ", "String "):
                    text = text.removeprefix(kind)
                value = shown(first["input"])
                message = f"'{name}' of {what} is {value}, but it {_verb(text)}" if path else f"{what}: {text}"
        raise InvalidOption(message, path) from None


def _verb(text: str) -> str:
    return text if text.startswith(("should", "must", "needs")) else f"is not valid: {text}"
