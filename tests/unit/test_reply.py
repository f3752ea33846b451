"""An answer that nobody can read: a call raises what is documented, whatever the worker wrote."""

from __future__ import annotations

import pytest

from holdfast import CallError, SessionManager
from holdfast.testing import MemoryTransport, ReadEnd, WriteEnd

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "result", ["1,", "tru", "[" * 100_000 + "]" * 100_000], ids=["comma", "word", "nested"]
)
async def test_a_call_whose_answer_cannot_be_read(result: str) -> None:
    """It names the request that waits, so it is its answer, though no parser takes it."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        await stdin.readline()
        await stdout.write(f'{{"jsonrpc":"2.0","id":"c","result":{result}}}\n'.encode())
        await stdin.readline()

    async with SessionManager() as manager:
        session = await manager.start(MemoryTransport(worker), ["worker"])
        with pytest.raises(CallError, match="cannot be read") as caught:
            await session.call("work", id="c", timeout=10)
        assert caught.value.code == 0
        assert session.in_flight == frozenset()
