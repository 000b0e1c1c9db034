"""The data settings in config.yaml, and comparing them with other data: by content, not by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topolearn.format.writer import scalar
from topolearn.samples import Data, ImageData


def data_settings(data: Data) -> dict[str, Any]:
    """Return what config.yaml stores about data: what the network needs, their content, and where they were found."""
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
    """Return image data with the mean, std and class numbers of a run's data; other data as they are."""
    info = data.info
    wanted = tuple(config["mean"]), tuple(config["std"]), tuple(config["classes"])
    if not isinstance(data, ImageData) or wanted == (info.mean, info.std, info.classes):
        return data
    return data.seen_by(*wanted)


def values_differ(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return which mean or std differs from that of the run's data, to follow "the data have …"; None if none does.

    Args:
        was: The run's config.
        now: What :func:`data_settings` says of the data.
    """
    # The network of the run may have seen them by other means.
    return _statistics_differ({**was, **(was.get("content") or {})}, now)


def classes_differ(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return that the classes differ from the run's, to follow "the data have …"; None if only their order does."""
    return None if sorted(was["classes"]) == sorted(now["classes"]) else "other classes than the run's"


def content_differs(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return how the content of data differs from the run's, to follow "the data have …"; None if it does not.

    Configs of earlier versions store less about the data; what a config lacks is not compared.

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
    differs = _statistics_differ(old, new)
    if differs is not None:
        return differs
    if "size" in old and tuple(old["size"]) != tuple(new.get("size", ())):
        sizes = ("x".join(map(str, each.get("size", ()))) for each in (new, old))
        return f"the size {', not '.join(sizes)}"
    return None


def _statistics_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return which of mean and std differs, if both have it; None if none does."""
    for key, name in (("mean", "mean"), ("std", "standard deviation")):
        if key in old and key in new and tuple(old[key]) != tuple(new[key]):
            return f"the {name} {scalar(new[key])}, not {scalar(old[key])}"
    return None


def _told(content: Mapping[str, Any]) -> str:
    python = f", Python {content['python']}" if "python" in content else ""
    return f"sha256 {str(content.get('sha256'))[:12]}{python}"
