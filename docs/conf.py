"""How Sphinx builds the documentation: ``sphinx-build -W --keep-going -n docs build/docs``.

The pages are Markdown that reads well without Sphinx, too. Warnings are errors, and every reference
in the API's docstrings and annotations has to lead somewhere.
"""

from __future__ import annotations

import collections.abc
import datetime as dt
import typing

import holdfast
import holdfast.testing

project = "holdfast"
author = "the holdfast authors"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "holdfast"
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a record's fields are listed in its own entry
napoleon_custom_sections = [("Fixtures", "params_style")]  # of TransportContract
python_maximum_signature_line_length = 88

nitpicky = True
nitpick_ignore_regex = [
    # Other projects' inventories would have to be fetched, and a build needs no network. What an
    # annotation names is importable, or mypy and pyright fail.
    (r"py:.*", r"(anyio|asyncio|collections|contextlib|datetime|importlib|msgspec|typing)\..*"),
    # Given by public methods and made by nobody else: what one does with them stands there.
    (r"py:class", r"holdfast\._dialect\.Message|holdfast\._envelope\.Envelope"),
    (r"py:class", r"holdfast\._framing\.Framer|holdfast\._registry\.Provided"),
    (r"py:class", r"holdfast\.testing\._kit\.Peer"),
    # An import under ``if TYPE_CHECKING``, an alias and a type variable: shown as they stand.
    (r"py:class", r"EntryPoint|Body|holdfast\.testing\._faults\.T"),
]

# Classes name the place to import them from. holdfast sees to that for its own; for the kit, which
# imports its parts when they are asked for, it is done here.
for _name in holdfast.testing.__all__:
    _each = getattr(holdfast.testing, _name)
    if isinstance(_each, type):
        _each.__module__ = "holdfast.testing"

# And autodoc reads a record's annotations with the names of that place, not those of its module.
vars(holdfast).update(
    Any=typing.Any,
    Callable=collections.abc.Callable,
    Mapping=collections.abc.Mapping,
    Sequence=collections.abc.Sequence,
    dt=dt,
)
