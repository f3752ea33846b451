"""Blocking functions, each in a thread of its own for as long as it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio

from holdfast.wakeup import caller

T = TypeVar("T")


class Job(Generic[T]):
    """A blocking function that runs in a thread; any number of tasks may wait for its result.

    Who waits may be cancelled, at once; the function goes on. If nobody waits when it is done,
    its result is given to ``unwanted``, in a thread.

    Attributes:
        dropped: Whether that happened.
    """

    def __init__(
        self, function: Callable[[], T], *, name: str, unwanted: Callable[[T], object] | None = None
    ) -> None:
        self._function = function
        self._unwanted = unwanted
        self._call = caller()
        self._finished = anyio.Event()
        self._waiting = 0
        self.dropped = False
        self._result: T | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=f"holdfast ssh: {name}", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished.is_set()

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error."""
        return self.done and self._error is not None

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        try:
            self._call(self._finish)
        except RuntimeError:  # the event loop is over
            self._drop()

    def _finish(self) -> None:
        self._finished.set()
        if not self._waiting and self._unwanted is not None:
            self.dropped = True
            threading.Thread(target=self._drop, name="holdfast ssh: drop", daemon=True).start()

    def _drop(self) -> None:
        if self._error is None and self._unwanted is not None:
            self._unwanted(self._result)  # type: ignore[arg-type]

    async def result(self) -> T:
        """Wait for the function's end.

        Raises:
            BaseException: Whatever the function raised.
        """
        self._waiting += 1
        try:
            await self._finished.wait()
        finally:
            self._waiting -= 1
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
