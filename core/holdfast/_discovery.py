"""Where plugins come from: the entry points of the installed distributions.

``importlib.metadata`` knows every way to install a distribution, and takes 40 ms to be imported and
asked. One plugin is found without it, where installers put it: in the directories of ``sys.path``,
in a file that the packaging specifications describe. All of them, and one that is not found so, are
left to ``importlib.metadata``.

Source: https://packaging.python.org/specifications/entry-points
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "holdfast"


class Found(msgspec.Struct, frozen=True):
    """A plugin that is installed, and not imported yet.

    Attributes:
        name: The entry point's name; for a transport its scheme.
        distribution: Who brings it.
        load: Imports it.
    """

    name: str
    distribution: str
    load: Callable[[], Any]


def from_entry_points(entry_points: Iterable[EntryPoint]) -> list[Found]:
    """The plugins of entry points that are at hand."""
    return [
        Found(each.name, each.dist.name if each.dist else "an unknown distribution", each.load)
        for each in entry_points
    ]


def find_all() -> list[Found]:
    """Every plugin there is."""
    from importlib.metadata import entry_points

    return from_entry_points(entry_points(group=GROUP))


def find(name: str) -> list[Found]:
    """The plugins of one name."""
    quick = [found for directory in dict.fromkeys(sys.path) for found in _look_in(directory, name)]
    if len(quick) == 1:
        return quick
    return [found for found in find_all() if found.name == name]


def _look_in(directory: str, name: str) -> Iterator[Found]:
    try:
        entries = os.listdir(directory or os.curdir)  # noqa: PTH208 - 1 ms that pathlib would take
    except OSError:  # an archive, or a directory that is not there
        return
    for entry in entries:
        stem, dot, kind = entry.rpartition(".")
        if kind not in ("dist-info", "egg-info") or not dot:
            continue
        try:
            with open(os.path.join(directory, entry, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123
                text = file.read()
        except OSError:  # it has no entry points
            continue
        if (value := _value(text, name)) is not None:
            distribution = stem.partition("-")[0].replace("_", "-")
            yield Found(name, distribution, partial(_load, value))


def _value(text: bytes, name: str) -> str | None:
    """What a name stands for in the group's section, if it is there."""
    if f"[{GROUP}]".encode() not in text:
        return None
    section = ""
    for line in text.decode("utf-8", "replace").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        key, equals, value = line.partition("=")
        if section == GROUP and equals and key.strip() == name:
            return value.partition("[")[0].strip()
    return None


def _load(value: str) -> Any:
    module, _, path = value.partition(":")
    loaded: Any = import_module(module.strip())
    for attribute in filter(None, path.strip().split(".")):
        loaded = getattr(loaded, attribute)
    return loaded
