"""The contract finds what is broken: each clause fails the transport that breaks just that rule."""

from __future__ import annotations

import inspect

import anyio
import pytest
from tests.contract.linked import LinkedTransport, cut, silence
from tests.contract.mutants import LEFTOVERS, MUTANTS, Changed, Mutant

from holdfast.testing import CLAUSES, Kit, TransportContract


async def try_clause(mutant: Mutant) -> None:
    """Run a mutant's clause, and clear away what the mutant left behind."""
    transport = mutant.transport()
    kit = Kit(
        Changed() if mutant.clause == "HF-START-5" else transport,
        patience=mutant.patience,
        sever=cut,
        silence=silence,
        unreachable=transport,
    )
    try:
        await CLAUSES[mutant.clause].check(TransportContract(), kit)
    finally:
        with anyio.CancelScope(shield=True):
            while LEFTOVERS:
                result = LEFTOVERS.pop(0)()
                if inspect.isawaitable(result):
                    await result


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.clause}-{mutant.name}")
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    """A mutant fails its clause, and the failure names it."""
    backend = ("asyncio", "trio")[MUTANTS.index(mutant) % 2]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the rule's breach raises
        anyio.run(try_clause, mutant, backend=backend)
    assert f"clause {mutant.clause} " in "".join(getattr(caught.value, "__notes__", ())), caught
    assert not isinstance(caught.value, AttributeError | NameError | TypeError), caught


def test_every_clause_has_a_mutant() -> None:
    """A rule that no mutant breaks is a rule that nobody has seen fail."""
    assert {mutant.clause for mutant in MUTANTS} == CLAUSES.keys()


class TestLinked(TransportContract):
    """The transport that the mutants of HF-LINK are made of keeps every rule itself."""

    @pytest.fixture
    def transport(self):
        return LinkedTransport()

    @pytest.fixture
    def sever(self):
        return cut

    @pytest.fixture
    def silence(self):
        return silence
