"""Checked options: make a pydantic model from a mapping, with errors that a user can act on."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from topolearn.errors import OptionError, shown, suggest

ModelT = TypeVar("ModelT", bound=BaseModel)


class InvalidOption(OptionError):
    """An unknown, missing or invalid option.

    Attributes:
        path: Keys that lead to the option, outermost first.
    """

    def __init__(self, message: str, path: tuple[str, ...]) -> None:
        super().__init__(message)
        self.path = path


def validate(model: type[ModelT], values: Mapping[str, Any], what: str) -> ModelT:
    """Make a ``model`` from ``values``, and report what is wrong in one line.

    Args:
        model: A pydantic model.
        values: Its fields.
        what: Name of the thing that has these options, for errors.

    Raises:
        InvalidOption: The first fault, in one line.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # A misspelt key leaves another one missing; report the misspelt key.
        faults = [(fault, _path(fault["loc"], values, fault["type"])) for fault in error.errors()]
        faults.sort(key=lambda each: each[0]["type"] != "extra_forbidden")
        # In a union, the member that matched deepest is the one that was meant.
        outer = faults[0][1]
        first, path = max((each for each in faults if each[1][: len(outer)] == outer), key=lambda each: len(each[1]))
        name = ".".join(path)
        match first["type"]:
            case "extra_forbidden":
                message = f"unknown parameter '{name}' of {what}{suggest(path[-1], _free(model, values, path))}"
            case "missing" if path[-1].isdecimal():  # a list that is too short
                message = f"'{'.'.join(path[:-1])}' of {what} needs at least {int(path[-1]) + 1} values"
            case "missing":
                message = f"{what} needs '{name}'"
            case _:
                text = _either([plain_words(fault["msg"]) for fault, place in faults if place == path])
                value = shown(first["input"])
                message = f"'{name}' of {what} is {value}, but it {_verb(text)}" if path else f"{what}: {text}"
        raise InvalidOption(message, path) from None


@dataclass(frozen=True)
class Described:
    """A field of a model, described for people.

    Attributes:
        name: Its name.
        default: Its default, as written in a file; None if a value must be given.
        text: What it means, in one paragraph; empty if the model does not say.
    """

    name: str
    default: str | None
    text: str


def fields(model: type[BaseModel]) -> list[Described]:
    """Describe the fields of ``model`` for people; the string below each field says what it means."""
    return [
        Described(
            field.name,
            None if field.default is field.empty else in_file(field.default),
            _plain(_meaning(model, field.name)),
        )
        for field in parameters(model)
    ]


def parameters(model: type[BaseModel]) -> list[inspect.Parameter]:
    """Return the fields of ``model`` as keyword parameters of a function, without the limits that it checks."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=_unlimited(field.annotation),
        )
        for name, field in model.model_fields.items()
    ]


def docstring_section(model: type[BaseModel]) -> str:
    """Return the fields of ``model`` with defaults and meaning, as a section of a docstring."""
    lines = ["Options:"]
    for field in parameters(model):
        default = "" if field.default is field.empty else f" (default {field.default!r})"
        text = f"{field.name}{default}: {_meaning(model, field.name)}"
        lines.append(textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="        "))
    return "\n".join(lines)


def _meaning(model: type[BaseModel], name: str) -> str:
    """Return what a field means; if a class only changes its default, the meaning in the base class."""
    for each in model.__mro__:
        field = each.model_fields.get(name) if issubclass(each, BaseModel) else None
        if field is not None and field.description:
            return field.description
    return ""


def _unlimited(kind: Any) -> Any:
    """Return a type without the limits in its ``Annotated`` parts."""
    if get_origin(kind) is Annotated:
        return _unlimited(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return reduce(or_, map(_unlimited, get_args(kind)))
    return kind


def in_file(value: Any) -> str:
    """Return a default as YAML, on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {in_file(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_file, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _plain(text: str) -> str:
    """Return a docstring without markup, on one line; None becomes null, as in files."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return re.sub(r"\bNone\b", "null", " ".join(text.replace("``", "'").split()))


def _path(place: tuple[int | str, ...], values: Any, fault: str) -> tuple[str, ...]:
    """Return the keys of ``values`` in pydantic's location of a fault, which also names members of unions."""
    path: list[str] = []
    for part in place:
        known = values.keys() if isinstance(values, Mapping) else range(len(values)) if _is_list(values) else ()
        if part in known:
            values = values[part]
            path.append(str(part))
    if fault == "missing":
        path.append(str(place[-1]))
    return tuple(path)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _free(model: type[BaseModel], values: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    """Return the fields that are not given yet, of the model that the last key of ``path`` belongs to."""
    for key in path[:-1]:
        values = values[key]
        kinds = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner or not isinstance(values, Mapping):
            return []
        model = inner[0]
    return [field for field in model.model_fields if field not in values]


_WORDS = (
    (r"^(Value error, |Input |Tuple |Dictionary |String )", ""),
    (r" after validation(?=,|$)", ""),
    (r"a valid dictionary( or instance of \w+)?", "a mapping"),
    (r"a valid integer(, .*)?", "a whole number"),
    (r"a valid number(, .*)?", "a number"),
    (r"a valid boolean(, .*)?", "true or false"),
    (r"a valid string", "text"),
    (r"a valid (tuple|list)", "a list"),
    (r"greater than or equal to (\S+)", r"at least \1"),
    (r"less than or equal to (\S+)", r"at most \1"),
)
"""Pattern in a message of the validation library -> the words for it in files."""


def plain_words(message: str) -> str:
    """Return a message of the validation library in the words of files."""
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message


def _either(texts: Sequence[str]) -> str:
    """Join messages: ``should be A``, ``should be B`` -> ``should be A, or B``."""
    # Each member of a union says what it accepts.
    first, *others = dict.fromkeys(texts)
    return ", or ".join([first, *(text.removeprefix("should be ") for text in others)])


def _verb(text: str) -> str:
    return text if text.startswith(("should", "must", "needs")) else f"is not valid: {text}"


def with_option(options: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return ``options`` with ``value`` at ``key``, which is the name of an option, or ``NAME.ENTRY`` of a mapping."""
    name, dot, entry = key.partition(".")
    if not dot:
        return {**options, key: value}
    before = options.get(name)
    return {**options, name: {**(before if isinstance(before, Mapping) else {}), entry: value}}


def tuples(value: Any) -> Any:
    """Turn lists into tuples, which strict options need."""
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
