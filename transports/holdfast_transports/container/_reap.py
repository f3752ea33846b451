"""Removing what was left by programs that were killed: containers whose owner is dead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._http import query
from ._owner import LABEL, Owner

if TYPE_CHECKING:
    from ._engine import Engine


async def reap(engine: Engine) -> list[str]:
    """Remove the containers whose owner is certainly dead; a line for each.

    Raises:
        OSError: There is no engine to ask; other errors of a request are possible, too.
    """
    filters = {"label": [LABEL]}
    answer = await engine.call("GET", query("/containers/json", all=1, filters=filters))
    removed = []
    for each in answer.json if answer.ok else ():
        owner = Owner.parse((each.get("Labels") or {}).get(LABEL, ""))
        if owner is not None and owner.dead and await engine.remove(each["Id"]):
            removed.append(
                f"container {each['Id'][:12]} of {each['Image']}, {each['State']}: its owner, "
                f"process {owner.pid}, is dead"
            )
    return removed
