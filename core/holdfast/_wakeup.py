"""The two ways in which a task waits for another here, each as cheap as its event loop allows.

``anyio.Event`` does the same for 13 µs more a time, which is half a round trip of a line; so
these two speak to the event loop directly, and the rest of core sees neither loop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


def in_trio() -> bool:
    """Whether the running event loop is trio's; otherwise it is asyncio's or one of its kind."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


class Waiter(Protocol):
    """Something that happens once. Any task may wait for it; ``set`` may come first."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    async def wait(self) -> None: ...


class _AsyncioWaiter:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        import asyncio

        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        return self._future.done()

    async def wait(self) -> None:
        # A future that is awaited by a cancelled task is cancelled with it, and then counts as
        # set: each waiter has one waiting task, and nobody asks after that task was cancelled.
        await self._future


def waiter() -> Waiter:
    """A new :class:`Waiter` for the running event loop. One task may wait for it."""
    if in_trio():
        import trio

        return trio.Event()
    return _AsyncioWaiter()


class Bell:
    """Wakes all who wait for it at that moment; a ring that nobody hears is forgotten.

    Who waits looks at the state that it waits for before and after, as with any condition. There
    is no ``await`` between that look and the wait, so no ring is missed.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}

    def ring(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, {}
            for each in waiters:
                each.set()

    async def wait(self) -> None:
        one = waiter()
        self._waiters[one] = None
        try:
            await one.wait()
        finally:
            self._waiters.pop(one, None)
