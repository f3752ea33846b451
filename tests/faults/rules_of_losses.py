"""Rules on what is said of a worker's end: it fits what was done, and what ends it is noticed.

They hold only where somebody kept a list of the faults that were done.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast import Cause, Exit, Reason, State, Status, StatusChanged

from .history import Deed, History

ENDS = (State.ERROR, State.STOPPED)
LOSSES = {Reason.PROCESS_EXIT, Reason.READ_LOOP_ERROR, Reason.STDIN_BROKEN}
_LADDER = {"0", "SIGTERM", "SIGKILL"}
"""How a worker may end that we stop: by the end of its stdin, or by our signals."""


def losses(history: History) -> Iterator[str]:
    """What is said of a worker's end fits what was done to it, and what ends it is noticed."""
    if history.deeds is None:
        return
    ended: set[int] = set()
    generation = 0
    after: dict[int, Status] = {}  # the last word about each end
    for event in history.log:
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        if status.reason in (Reason.START, Reason.RESTART) and status.state is State.IDLE:
            generation = generation_of(status)
        elif status.state in (*ENDS, State.RESTARTING):
            ended.add(generation)
            # A stop of what had ended already tells nothing of it.
            if generation not in after or after[generation].reason is status.reason:
                after[generation] = status
            yield from _fits(history, generation, status)
    for deed in history.deeds:
        if deed.ends and deed.first not in ended:
            yield f"losses: {deed.what} in generation {deed.first}, and its end was never told"
    for generation, status in after.items():
        told = status.exit is not None and status.exit.reported
        if told or status.reason not in (*LOSSES, Reason.STOP):
            continue
        named = not any(deed.unnamed for deed in deeds_of(history, generation))
        due = history.reports_exit and named and link_held(history, generation)
        if due and not _restarted_at_once(history, status):
            yield f"losses: how generation {generation} ended was never told: {status}"


def generation_of(status: Status) -> int:
    """The generation that a status is about."""
    return int((status.worker_id or "/0").rpartition("/")[2])


def deeds_of(history: History, generation: int) -> list[Deed]:
    """What was done to a generation."""
    return [each for each in history.deeds or () if each.first <= generation <= each.last]


def link_held(history: History, generation: int) -> bool:
    """Whether nothing was done to the link of a generation."""
    return not any(deed.link for deed in deeds_of(history, generation))


def _restarted_at_once(history: History, status: Status) -> bool:
    """Whether nobody could add an exit to this status any more."""
    for event in history.log[status.seq :]:
        if isinstance(event, StatusChanged):
            return event.status.state is State.RESTARTING
    return False


def _fits(history: History, generation: int, status: Status) -> Iterator[str]:
    deeds = deeds_of(history, generation)
    done = ", ".join(each.what for each in deeds) or "nothing"
    said = f"{status.state}/{status.reason} at {status.seq}"
    exit = _named(status.exit)
    if status.reason in LOSSES:
        if not deeds:
            yield f"losses: generation {generation} is lost, says {said}, and nothing was done"
            return
        if status.reason is Reason.READ_LOOP_ERROR:
            yield f"losses: {said} tells of a mistake: {status.detail}"
        causes = frozenset().union(*(each.causes for each in deeds))
        if not link_held(history, generation):
            causes |= {Cause.UNKNOWN}  # two faults at once: nothing is claimed of either
        if status.cause is not None and status.cause not in causes:
            yield f"losses: {said} tells of {status.cause}, and what was done is {done}"
        exits = frozenset().union(*(each.exits for each in deeds))
        if status.reason is not Reason.PROCESS_EXIT or status.cause is not Cause.WORKER_EXITED:
            exits |= _LADDER  # it lived, and we have ended it since
        if exit is not None and exit not in exits:
            yield f"losses: {said} tells that it ended by {exit}, and what was done is {done}"
    elif status.reason is Reason.STOP:
        exits = _LADDER.union(*(each.exits for each in deeds))
        if exit is not None and exit not in exits:
            yield f"losses: {said} tells that it ended by {exit}, and what was done is {done}"
        if status.cause in (Cause.LINK_LOST, Cause.LINK_SILENT) and not any(
            status.cause in each.causes for each in deeds
        ):
            yield f"losses: {said} tells of {status.cause}, and what was done is {done}"


_BY_CODE = {"137": "SIGKILL", "143": "SIGTERM"}


def _named(exit: Exit | None) -> str | None:
    """How it ended, in a word; a shell's code for a signal is taken for the signal."""
    if exit is None or not exit.reported:
        return None
    return exit.signal or _BY_CODE.get(str(exit.code), str(exit.code))
