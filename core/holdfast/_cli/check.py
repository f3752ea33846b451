"""``holdfast check TARGET``: the transport contract, tried at a live target."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from holdfast._errors import (
    HoldfastError,
    PluginError,
    TransportUnavailable,
    UnknownTransport,
    WorkerNotStarted,
)
from holdfast._registry import Registry
from holdfast._transport import Capability, Channel, Command, Transport

from ._printing import print_json
from ._targets import unknown

if TYPE_CHECKING:
    from holdfast.testing._live import Run, Trial

UNAVAILABLE: Final = 69
"""The exit code where nothing could be tried (``EX_UNAVAILABLE`` of sysexits.h)."""

FAILED: Final = 1
"""The exit code where a clause of the contract is broken."""

REACH: Final = 60.0
"""Seconds to reach the target before anything is tried: an image may have to be brought first."""

ANSWER: Final = 10.0
"""Seconds for a fixed worker to answer: what listens there may take its time to start one."""

LAST: Final = 10.0
"""Seconds to close what the first look opened."""

SCRIPT_WORKER: Final = ("sh", "-c", 'IFS= read -r script && eval "$script"')
"""As :data:`holdfast.testing.SCRIPT_WORKER`, which cannot be imported without pytest."""


class Unavailable(click.ClickException):
    """Nothing could be tried."""

    exit_code = UNAVAILABLE

    def show(self, file: Any = None) -> None:
        """One line, as every error of ours."""
        click.echo(f"holdfast: {' '.join(self.message.split())}", err=True)


@click.command(context_settings={"allow_interspersed_args": True})
@click.option(
    "--clause",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Try only these, such as HF-SEND-3 or 'HF-SEND-*'; may be given several times.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["asyncio", "trio"]),
    help="Try on this event loop only.  [default: both]",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    help="Multiply every deadline, for a slow link.",
)
@click.option(
    "--sever",
    metavar="COMMAND",
    default="no",
    show_default=True,
    help="A shell command, run on this machine, that cuts the link of all open channels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("target")
@click.argument("worker", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD...]")
def command(
    target: str,
    worker: tuple[str, ...],
    patterns: tuple[str, ...],
    backends: tuple[str, ...],
    patience: float,
    sever: str,
    as_json: bool,
) -> int:
    """Try every clause of the transport contract at TARGET.

    It starts some hundred short-lived workers there, kills some of them, and moves some hundred
    MiB. They are shell scripts: TARGET needs a POSIX sh.

    Where TARGET leads to one fixed worker, or runs no command but some, give a CMD that reads one
    line of its input and runs it as a shell script, such as:

    \b
        holdfast check tcp://localhost:7000 -- sh -c 'IFS= read -r script && eval "$script"'

    The exit code is 0 if all that was tried passed; 1 if a clause failed; 69 if TARGET is not
    available, or nothing could be tried there; 64 for a command line that makes no sense.
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    transport = _transport(target)
    _need_the_kit()
    from holdfast.testing._live import BACKENDS, Trial

    from ._check_report import print_report, summarise

    trial = Trial(
        make=lambda: _transport(target),
        capabilities=transport.capabilities,
        worker=worker or None,
        sever=None if sever == "no" else sever,
        patterns=patterns,
        backends=tuple(each for each in BACKENDS if each in backends) or BACKENDS,
        patience=patience,
    )
    _check_patterns(patterns)
    obstacle = anyio.run(_obstacle, target, trial, backend=trial.backends[0])
    if obstacle is not None:
        raise Unavailable(obstacle)
    began = time.monotonic()
    runs = _run(trial)
    found = summarise(target, trial, runs, time.monotonic() - began)
    if as_json:
        print_json(found)
    else:
        print_report(found)
    if found["ok"]:
        return 0
    if found["counts"]["failed"]:
        return FAILED
    raise Unavailable(_nothing_tried(target, trial))


def _transport(target: str) -> Transport:
    registry = Registry()
    try:
        return registry.transport(target)
    except UnknownTransport as error:
        raise click.UsageError(str(unknown(registry, error.scheme))) from error
    except PluginError as error:
        raise Unavailable(str(error)) from error
    except (HoldfastError, ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error


def _need_the_kit() -> None:
    missing = [name for name in ("pytest", "trio") if find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"the clauses cannot be tried without {' and '.join(missing)}; "
            "run: pip install 'holdfast[testing]'"
        )


def _check_patterns(patterns: tuple[str, ...]) -> None:
    from holdfast.testing._live import in_order

    ids = [clause.id for clause in in_order()]
    for pattern in patterns:
        if not any(fnmatchcase(id, pattern.upper()) for id in ids):
            groups = dict.fromkeys(id.rpartition("-")[0] + "-*" for id in ids)
            raise click.UsageError(f"no clause matches {pattern!r}; there are: {', '.join(groups)}")


async def _obstacle(target: str, trial: Trial) -> str | None:
    """Why no worker can be had at TARGET, so that not a hundred clauses fail for one reason.

    Whatever else is wrong is for the clauses to tell.
    """
    limit = REACH * trial.patience
    transport = trial.transport()
    try:
        with anyio.move_on_after(limit):
            return await _greet(target, trial, transport)
        return f"{target} gave no worker within {limit:g} s; try again, or raise --patience"
    except Exception as error:  # noqa: BLE001 - a broken transport may raise anything
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, TransportUnavailable):
            return str(cause)
        if isinstance(cause, WorkerNotStarted):
            return f"{cause} (the clauses run POSIX sh scripts at the target)"
        return None
    finally:
        with anyio.move_on_after(LAST, shield=True):
            await transport.aclose()


async def _greet(target: str, trial: Trial, transport: Transport) -> str | None:
    """Start a worker; where it shall run scripts, see whether it does."""
    async with transport.open(Command(("sh", "-c", "exit 0"))) as channel:
        if trial.worker is None:
            return None
        with anyio.move_on_after(ANSWER * trial.patience):
            await channel.send(b"echo $((6 * 7)) from holdfast check\n")
            if await _line(channel) == b"42 from holdfast check":
                return None
    return (
        f"{shlex.join(trial.worker)} at {target} did not run the line of shell script that it was "
        f"sent; give a CMD that does: {shlex.join(SCRIPT_WORKER)}"
    )


async def _line(channel: Channel) -> bytes:
    data = b""
    while b"\n" not in data and (more := await channel.receive()):
        data += more
    return data.partition(b"\n")[0]


def _run(trial: Trial) -> list[Run]:
    """Try the clauses; where a person looks at stderr, show how far it is."""
    with _progress() as (begin, ended):
        try:
            return trial.run(begin, ended)
        except RuntimeError as error:
            raise Unavailable(str(error)) from error
        except KeyboardInterrupt:
            raise click.Abort from None


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int], object], Callable[[Run], object]]]:
    if not sys.stderr.isatty():
        yield (lambda total: None), (lambda run: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    # Drawn between the clauses, by no thread of its own: some clauses count threads.
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as progress:
        task = progress.add_task("", total=None)

        def begin(total: int) -> None:
            progress.update(task, total=total, refresh=True)

        def ended(run: Run) -> None:
            progress.update(
                task, advance=1, refresh=True, description=f"{run.clause} {run.outcome}"
            )

        yield begin, ended


def _nothing_tried(target: str, trial: Trial) -> str:
    if Capability.ANY_COMMAND in trial.capabilities or trial.worker is not None:
        return f"nothing was tried at {target}: it has the capability for none of these clauses"
    return (
        f"nothing was tried at {target}: it leads to one fixed worker (no ANY_COMMAND), and the "
        f"clauses need one that runs scripts. Let {shlex.join(SCRIPT_WORKER)} listen there, and "
        "give this command behind --"
    )
