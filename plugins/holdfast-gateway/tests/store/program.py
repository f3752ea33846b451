"""A program that runs sessions on a log, tells what it has seen, and waits to be killed.

Usage: program.py DIRECTORY LOOP PLACE, with the place to note what was shown. It restores what
there is, starts session ``s`` if it is new, and prints JSON lines as events come: the seq of the
latest, and how far the store is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from holdfast import Lagged, Session, SessionManager
from holdfast_gateway import _sqlite_shown
from holdfast_gateway._sqlite import SQLiteStore

sys.path.insert(0, str(Path(__file__).parent))

from kit import WORKER, request


async def main() -> None:
    async with SessionManager(store=SQLiteStore(sys.argv[1])) as manager:
        await manager.restore()
        if "s" in manager.sessions:
            session = manager.get("s")
            await session.start()
        else:
            session = await manager.start("local:", WORKER, session_id="s", record={"n": 1})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell, session)
            for n in range(1_000_000):
                id = f"{session.generation}-{n}"
                await session.send(request(id, "silent" if n % 10 == 0 else "prompt", lines=30))


async def tell(session: Session) -> None:
    async with session.subscribe(after=session.last_seq) as events:
        async for batch in events.batches():
            assert not isinstance(batch[-1], Lagged)
            print(json.dumps([batch[-1].seq, session.stored_seq]), flush=True)


_sqlite_shown._PLACE = Path(sys.argv[3])
anyio.run(main, backend=sys.argv[2])
