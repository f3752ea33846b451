"""The history of each session of these tests is checked, and that they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.belongings import belongings, left_over

from .workers.harness import Gate


@pytest.fixture(autouse=True)
def _checked(histories: object) -> Iterator[None]:
    """See ``histories`` in ``tests/conftest.py``."""
    before = belongings()
    yield
    assert left_over(before) == []


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where a worker takes no input until the test lets it."""
    gate = Gate(tmp_path)
    yield gate
    gate.close()
