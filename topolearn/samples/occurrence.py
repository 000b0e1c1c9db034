"""Check that every class occurs among the training targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from topolearn.errors import DataError, first_few

LISTED = 12
"""Most values that an error lists."""


def not_validated(classes: Sequence[str], counts: Sequence[int], what: str) -> list[str]:
    """Return a note on the classes that do not occur in validation. Empty if all do.

    Args:
        classes: Names of the classes.
        counts: How often each class occurs in validation.
        what: How the note begins, such as "no validation image is of".
    """
    missing = [f"'{name}'" for name, count in zip(classes, counts, strict=True) if not count]
    return [f"{what} the class {first_few(missing)}"] if missing else []


def check_occurrence(
    classes: Sequence[str], counts: Sequence[int], found: Mapping[str, int], unit: str, where: str, mend: str
) -> None:
    """Check that every class has a training example, and that there are two classes.

    Args:
        classes: Names of the classes.
        counts: How often each class occurs.
        found: Value in the training targets -> how often it occurs, for the error.
        unit: What is counted, ``images`` or ``pixels``.
        where: What holds the targets, for the error.
        mend: What to do about a missing class, for the error.

    Raises:
        DataError: A class does not occur, or there is only one class.
    """
    missing = [f"'{name}'" for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
        is_are = "class {} has" if len(missing) == 1 else "classes {} have"
        wrong = f"the {is_are.format(first_few(missing))} no training example"
    elif len(classes) == 1:
        wrong = f"there is only one class, '{classes[0]}', so there is nothing to learn"
    else:
        return
    listed = [f"{value} ({count:,} {unit})" for value, count in found.items()]
    if len(found) < 2 or not missing:
        mend = "add examples of another class"
    raise DataError(f"{wrong}: {where} hold {first_few(listed, LISTED) or 'nothing'}; {mend}")
