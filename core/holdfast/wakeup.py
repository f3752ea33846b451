"""How one task waits for another, or for a thread, as cheaply as the event loop allows.

``anyio.Event`` does the same for 13 µs more a time, which is half a round trip of a line; so
these speak to the event loop directly, and the rest of core and its transports see neither loop.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Protocol


def in_trio() -> bool:
    """Whether the running event loop is trio's; otherwise it is asyncio's or one of its kind."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


class Waiter(Protocol):
    """Something that happens once, and that one task waits for; ``set`` may come first."""

    def set(self) -> None:
        """Let it have happened. Idempotent."""
        ...

    async def wait(self) -> None:
        """Wait until it has."""
        ...


class Bell(Protocol):
    """Wakes all who wait for it at that moment; a ring that nobody hears is forgotten.

    Who waits looks at the state that it waits for before and after, as with any condition. There
    is no ``await`` between that look and the wait, so no ring is missed.
    """

    def ring(self) -> None:
        """Wake all who wait now."""
        ...

    async def wait(self) -> None:
        """Wait for the next ring."""
        ...


def waiter() -> Waiter:
    """A new :class:`Waiter` for the running event loop."""
    if in_trio():
        import trio

        return trio.Event()
    return _AsyncioWaiter()


def bell() -> Bell:
    """A new :class:`Bell` for the running event loop."""
    return _TrioBell() if in_trio() else _AsyncioBell()


def caller() -> Callable[[Callable[[], object]], object]:
    """A function that any thread may call, to have something called in this event loop soon.

    What it is given must neither wait nor raise. Where the loop is over, it raises
    ``RuntimeError``.
    """
    if in_trio():
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon  # RunFinishedError is one, too
    return asyncio.get_running_loop().call_soon_threadsafe


class _AsyncioWaiter:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


class _AsyncioBell:
    __slots__ = ("_futures", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._futures: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        if self._futures:
            futures, self._futures = self._futures, []
            for each in futures:
                if not each.done():
                    each.set_result(None)

    async def wait(self) -> None:
        future = self._loop.create_future()
        self._futures.append(future)
        try:
            await future
        except BaseException:
            if future in self._futures:
                self._futures.remove(future)
            raise


class _TrioBell:
    __slots__ = ("_lot",)

    def __init__(self) -> None:
        import trio

        self._lot = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        self._lot.unpark_all()

    async def wait(self) -> None:
        await self._lot.park()
