"""Time that passes at once: an event loop's clock that jumps to the next timer when all is quiet.

A test that waits for a deadline of ten seconds then takes none, and takes the same course on a
busy machine. For trio this is its own ``MockClock``; asyncio has no such thing, so here is one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


def fake_clock(backend: str) -> dict[str, Any]:
    """The options that make anyio run ``backend`` on a clock that never lets anyone wait.

    Use it as ``anyio.run(test, backend="trio", backend_options=fake_clock("trio"))``, or in an
    ``anyio_backend`` fixture as ``("trio", fake_clock("trio"))``. The options serve for one run.

    A thread or a process at work is not seen: timers do not wait for it.

    Raises:
        ValueError: There is no fake clock for this backend.
    """
    if backend == "asyncio":
        return {"loop_factory": FakeClockLoop}
    if backend == "trio":
        from trio.testing import MockClock

        return {"clock": MockClock(autojump_threshold=0)}
    raise ValueError(f"no fake clock for {backend!r}; there is one for asyncio and for trio")


class _JumpingSelector(selectors.BaseSelector):
    """Never sleeps where a timer says how long: it moves the clock by that much instead."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # nobody waits for a time: a thread or a descriptor must wake us
            return self._real.select()
        ready = self._real.select(0)
        if not ready and timeout > 0:
            self.now += timeout
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time starts at 0 and jumps to the next timer when idle."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now
