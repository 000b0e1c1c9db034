"""What config.yaml says of a run's data, and whether other data are the same: by what they hold, not by their name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topolearn.data import Data, ImageData
from topolearn.format.writer import scalar


def data_settings(data: Data) -> dict[str, Any]:
    """What config.yaml says of data: what a network must know of them, what they hold, and where they were found."""
    info = data.info
    return {
        "data": info.name,
        **({} if data.path is None else {"data_path": str(data.path)}),
        "mean": info.mean,
        "std": info.std,
        "classes": info.classes,
        "ignore_index": info.ignore_index,
        "content": data.content,
    }


def as_of_run(data: Data, config: Mapping[str, Any]) -> Data:
    """Data as the network of a run takes them: normalised and numbered as its own were; others as they are."""
    info = data.info
    wanted = tuple(config["mean"]), tuple(config["std"]), tuple(config["classes"])
    if not isinstance(data, ImageData) or wanted == (info.mean, info.std, info.classes):
        return data
    return data.seen_by(*wanted)


def values_differ(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Where data are not normalised as a run's were when they were read, as in "the data have …"; None if nowhere.

    Args:
        was: The run's config.
        now: What :func:`data_settings` says of the data.
    """
    own = {**was, **(was.get("content") or {})}  # the network of the run may have seen them by other means
    for key, name in (("mean", "mean"), ("std", "standard deviation")):
        if tuple(own[key]) != tuple(now[key]):
            return f"the {name} {scalar(now[key])}, not {scalar(own[key])}"
    return None


def classes_differ(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Whether the classes are others, as in "the data have …"; their order does not matter."""
    return None if sorted(was["classes"]) == sorted(now["classes"]) else "other classes than the run's"


def content_differs(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Where data hold something else, as in "the data have …"; None if nowhere.

    A run of an earlier version knows less of its data; what its config lacks is not compared.

    Args:
        was: The run's config.
        now: What :func:`data_settings` says of the data, or another config.
    """
    old, new = was.get("content") or {}, now.get("content") or {}
    if "sha256" in old and old["sha256"] != new.get("sha256"):
        return f"another text ({_told(new)}, not {_told(old)})"
    for key, name in (("train", "training"), ("val", "validation")):
        if key in old and old[key] != new.get(key):
            return f"a {name} set of {new.get(key, 0):,}, not {old[key]:,}"
    for key, name in (("mean", "mean"), ("std", "standard deviation")):
        if key in old and key in new and tuple(old[key]) != tuple(new[key]):
            return f"the {name} {scalar(new[key])}, not {scalar(old[key])}"
    if "size" in old and tuple(old["size"]) != tuple(new.get("size", ())):
        sizes = ("x".join(map(str, each.get("size", ()))) for each in (new, old))
        return f"the size {', not '.join(sizes)}"
    return None


def _told(content: Mapping[str, Any]) -> str:
    python = f", Python {content['python']}" if "python" in content else ""
    return f"sha256 {str(content.get('sha256'))[:12]}{python}"
