"""A gateway for a test, or for all tests of a module that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .serving import Serving, serving


@pytest.fixture
def anyio_backend() -> str:
    """The gateway's server runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Serving]:
    """A gateway with the defaults, for the tests of one module: each has sessions of its own."""
    with serving() as running:
        yield running
