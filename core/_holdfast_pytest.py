"""pytest's side of the conformance kit: options and a marker.

It stands beside the package, not in it: pytest imports it in every run of every project that has
holdfast installed, and that must cost nothing. It imports no part of holdfast.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--holdfast-patience`` and ``--holdfast-clause``."""
    group = parser.getgroup("holdfast", "holdfast's conformance kit for transports")
    group.addoption(
        "--holdfast-patience",
        type=_factor,
        default=_factor(os.environ.get("HOLDFAST_PATIENCE", "1")),
        metavar="FACTOR",
        help="multiply every deadline of the kit: 3 for a slow link (default: 1, or the "
        "environment's HOLDFAST_PATIENCE)",
    )
    group.addoption(
        "--holdfast-clause",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run only the clauses of the contract whose id matches, such as HF-SEND-3 or "
        "'HF-SEND-*'; may be given several times; other tests are left out",
    )


def _factor(text: str) -> float:
    factor = float(text)
    if not factor > 0:
        raise ValueError(f"patience is a factor greater than 0, not {text}")
    return factor


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that every clause carries."""
    config.addinivalue_line(
        "markers",
        "holdfast_clause(id): a clause of holdfast's transport contract; "
        "choose with -m \"holdfast_clause(id='HF-SEND-3')\" or --holdfast-clause 'HF-SEND-*'",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--holdfast-clause`` did not ask for."""
    patterns = [pattern.upper() for pattern in config.getoption("holdfast_clause") or ()]
    if not patterns:
        return
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marker = item.get_closest_marker("holdfast_clause")
        wanted = marker is not None and any(
            fnmatchcase(marker.kwargs["id"], pattern) for pattern in patterns
        )
        (chosen if wanted else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
    items[:] = chosen
