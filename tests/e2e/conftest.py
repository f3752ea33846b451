"""The history of each session of these tests is checked, and that they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.belongings import belongings, left_over


@pytest.fixture(autouse=True)
def _checked(histories: object) -> Iterator[None]:
    """See ``histories`` in ``tests/conftest.py``."""
    before = belongings()
    yield
    assert left_over(before) == []
