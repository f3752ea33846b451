"""What a clause of the contract is: a rule, an id to look it up by, and a test that proves it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from holdfast import Capability

if TYPE_CHECKING:
    from ._kit import Kit

Body = Callable[[Any, "Kit"], Awaitable[None]]

DOCS: Final = "docs/writing-a-transport.md"

NOTHING: Final = Capability(0)


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule of the transport contract.

    Attributes:
        id: What it is looked up by, such as ``HF-SEND-3``.
        rule: The rule, in words.
        needs: The capabilities without which it does not apply.
        fixture: The optional fixture without which it cannot be tried.
        see: The public name whose documentation states the rule.
        test: The name of its test in ``TransportContract``.
        check: The test itself; it raises where the rule is broken.
    """

    id: str
    rule: str
    needs: Capability
    fixture: str | None
    see: str
    test: str
    check: Body

    @property
    def anchor(self) -> str:
        """Where the documentation explains it."""
        return f"{DOCS}#{self.id.lower()}"


CLAUSES: dict[str, Clause] = {}
"""Every clause by its id, in the order of the contract. Filled as the clauses are imported."""


def clause(
    id: str, needs: Capability = NOTHING, *, see: str, fixture: str | None = None
) -> Callable[[Body], Body]:
    """Make a test method a clause. Its docstring is the rule."""

    def decorate(body: Body) -> Body:
        name = body.__name__
        rule = inspect.getdoc(body)
        if not rule or id in CLAUSES:
            raise TypeError(f"clause {id} needs a rule, and an id of its own")

        @functools.wraps(body)
        async def test(self: Any, kit: Kit) -> None:
            __tracebackhide__ = True
            await kit.run(entry, functools.partial(body, self))

        test.__doc__ = f"{id}: {rule}"
        entry = CLAUSES[id] = Clause(id, " ".join(rule.split()), needs, fixture, see, name, test)
        marked: Body = pytest.mark.holdfast_clause(id=id)(test)
        return marked

    return decorate
