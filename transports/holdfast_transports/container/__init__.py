"""``docker:`` and ``podman:``: workers in containers, by the engines' own HTTP interface.

Read it in this order: ``_settings`` and ``_where`` (what a target says, and where an engine is),
``_wire`` and ``_http`` (a small client), ``_engine`` and ``_heart`` (what is asked of an engine,
and how its loss is noticed), ``_frames`` and ``_channel`` (a worker's streams, and the judgement of
their end), then the two kinds of workers: ``_created`` (in a container made for it) and ``_exec``
(in one that runs already). ``_owner`` and ``_reap`` remove what a killed program left.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from holdfast import (
    Capability,
    Channel,
    Command,
    Target,
    Transport,
    TransportBroken,
    TransportError,
    TransportSpec,
    TransportUnavailable,
    hookimpl,
)

from ._settings import (
    EXEC_OPTIONS,
    OPTIONS,
    PIDS,
    Mount,
    Pull,
    Settings,
    check_container,
    check_image,
    from_target,
)
from ._where import DOCKER, PODMAN, Kind, find

if TYPE_CHECKING:
    from ._channel import EngineChannel
    from ._engine import Engine
    from ._exec import Guards
    from ._heart import Heart

__all__ = ["ContainerTransport", "ExecTransport", "Mount", "Pull"]

_log = logging.getLogger("holdfast.container")

_REAP: Final = 60.0
"""Seconds for all leftovers of one engine to be removed."""

_KINDS: Final[Mapping[str, Kind]] = {"docker": DOCKER, "podman": PODMAN}


class _EngineTransport(Transport):
    """What workers in containers have in common, made for them or not."""

    capabilities: Capability = (
        Capability.ANY_COMMAND
        | Capability.STDERR
        | Capability.EXIT_STATUS
        | Capability.SIGNALS
        | Capability.HALF_CLOSE
        | Capability.REAPS_WORKER
        | Capability.DETECTS_SILENT_LINK
    )

    _kind: Kind
    _settings: Settings

    def _use(self, kind: Kind, settings: Settings) -> None:
        self._kind = kind
        self._settings = settings
        self._reaped = False
        self._engine: Engine | None = None
        if not settings.heartbeat:
            self.capabilities &= ~Capability.DETECTS_SILENT_LINK

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        """Start ``command``, and watch over it until the channel is closed."""
        channel, heart = await self._start(command)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(channel.watch)
                tasks.start_soon(heart.keep)
                try:
                    yield channel
                except Exception as error:  # noqa: BLE001 - raised below, not within a group
                    failure = error
                await channel.aclose()
                tasks.cancel_scope.cancel()
        finally:
            await channel.aclose()
        if failure is not None:
            raise failure

    async def _start(self, command: Command) -> tuple[EngineChannel, Heart]:
        try:
            from ._engine import NATIVE, Engine, Refused
        except ModuleNotFoundError as error:
            raise TransportUnavailable(
                f"{self._kind.command}: needs {error.name}, which is not installed: "
                f"pip install 'holdfast[container]'"
            ) from error
        if self._engine is None:
            self._engine = Engine(self._kind, self._settings)
        engine = self._engine
        try:
            with anyio.fail_after(self._settings.timeout):
                heart = await engine.heart()
                return await self._open(engine, heart, command), heart
        except Refused as error:
            raise TransportUnavailable(f"{engine.where} refuses: {error}") from error
        except TransportBroken as broken:
            raise TransportUnavailable(
                f"{engine.where} was lost while the worker was started ({broken.detail}); "
                f"start it again"
            ) from broken
        except NATIVE as error:
            raise engine.unavailable(error) from error

    async def _open(self, engine: Engine, heart: Heart, command: Command) -> EngineChannel:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close what the channels shared."""
        if self._engine is not None:
            await self._engine.aclose()


class ContainerTransport(_EngineTransport):
    """Workers each in a container of its own, which is made for it and removed with it.

    By default a container has no network, no capabilities and no way to new privileges.

    Args:
        image: The image; it needs a POSIX ``sh``.
        engine: ``"docker"`` or ``"podman"``.
        host: The engine; by default what its own client would use.
        context: A Docker context.
        user: Whom to run as; by default what the image says.
        workdir: The worker's directory, if a command has no ``cwd``.
        env: Variables for every worker.
        name: The container's name, if only one is to run.
        mounts: Directories of the engine's machine and volumes, for the worker to use.
        network: ``"none"``, ``"bridge"``, ``"host"``, or a network's name.
        memory: Bytes that all its processes may have together.
        cpus: CPU time that they may have together.
        pids: How many processes it may have; 0 for no limit.
        read_only: Whether the image's files cannot be changed.
        labels: Labels of the container, beside ours.
        pull: What to do about an image that is not there.
        capabilities: Whether it has those that the engine gives by default.
        new_privileges: Whether set-uid programs work.
        reap: Whether to remove first what other programs of ours left that were killed.
        heartbeat: Seconds between two questions whether the engine is there; 0 for never.
        deadline: Seconds that the answer may take before the engine is given up.
        timeout: Seconds to start a worker.
    """

    def __init__(
        self,
        image: str,
        *,
        engine: str = "docker",
        host: str | None = None,
        context: str | None = None,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        mounts: Sequence[Mount] = (),
        network: str = "none",
        memory: int | None = None,
        cpus: float | None = None,
        pids: int = PIDS,
        read_only: bool = False,
        labels: Mapping[str, str] | None = None,
        pull: Pull | str = Pull.NEVER,
        capabilities: bool = False,
        new_privileges: bool = False,
        reap: bool = False,
        heartbeat: float = 5.0,
        deadline: float = 15.0,
        timeout: float = 60.0,
    ) -> None:
        check_image(image)
        self._use(
            _KINDS[engine],
            Settings(
                name=image,
                host=host,
                context=context,
                user=user,
                workdir=workdir,
                env=env or {},
                container=name,
                mounts=tuple(mounts),
                network=network,
                memory=memory,
                cpus=cpus,
                pids=pids,
                read_only=read_only,
                labels=labels or {},
                pull=Pull(pull),
                capabilities=capabilities,
                new_privileges=new_privileges,
                reap=reap,
                heartbeat=heartbeat,
                deadline=deadline,
                timeout=timeout,
            ),
        )

    @classmethod
    def from_target(cls, target: Target) -> ContainerTransport:
        """The transport for ``docker://image[?options]``.

        Raises:
            InvalidTarget: It cannot be read.
        """
        check_image(target.opaque)
        transport = cls.__new__(cls)
        transport._use(_KINDS[target.scheme], from_target(target, OPTIONS))
        return transport

    async def _open(self, engine: Engine, heart: Heart, command: Command) -> EngineChannel:
        from ._created import CreatedChannel

        if self._settings.reap and not self._reaped:
            from ._reap import reap

            self._reaped = True
            for line in await reap(engine):
                _log.info("removed %s", line)
        return await CreatedChannel.open(engine, heart, command)


class ExecTransport(_EngineTransport):
    """Workers in a container that runs already; its own processes go on beside them.

    Args:
        container: Its name or id; it needs a POSIX ``sh``.
        engine: ``"docker"`` or ``"podman"``.
        host: The engine; by default what its own client would use.
        context: A Docker context.
        user: Whom to run as; by default what the container's image says.
        workdir: The worker's directory, if a command has no ``cwd``.
        env: Variables for every worker.
        heartbeat: Seconds between two questions whether the engine is there; 0 for never.
        deadline: Seconds that the answer may take before the engine is given up.
        timeout: Seconds to start a worker.
    """

    def __init__(
        self,
        container: str,
        *,
        engine: str = "docker",
        host: str | None = None,
        context: str | None = None,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        heartbeat: float = 5.0,
        deadline: float = 15.0,
        timeout: float = 60.0,
    ) -> None:
        check_container(container)
        self._use(
            _KINDS[engine],
            Settings(
                name=container,
                host=host,
                context=context,
                user=user,
                workdir=workdir,
                env=env or {},
                heartbeat=heartbeat,
                deadline=deadline,
                timeout=timeout,
            ),
        )

    @classmethod
    def from_target(cls, target: Target) -> ExecTransport:
        """The transport for ``docker+exec://container[?options]``.

        Raises:
            InvalidTarget: It cannot be read.
        """
        check_container(target.opaque)
        transport = cls.__new__(cls)
        kind = _KINDS[target.scheme.removesuffix("+exec")]
        transport._use(kind, from_target(target, EXEC_OPTIONS))
        return transport

    def _use(self, kind: Kind, settings: Settings) -> None:
        super()._use(kind, settings)
        self._guards: Guards | None = None

    async def _open(self, engine: Engine, heart: Heart, command: Command) -> EngineChannel:
        from ._exec import ExecChannel, Guards

        if self._guards is None:
            self._guards = Guards(engine)
        return await ExecChannel.open(engine, heart, self._guards, command)

    async def aclose(self) -> None:
        """Close what the channels shared; guards end what still runs."""
        if self._guards is not None:
            await self._guards.aclose()
        await super().aclose()


@hookimpl
def holdfast_transports() -> list[TransportSpec]:
    """``docker:``, ``docker+exec:``, and the same with Podman."""
    specs = []
    for scheme, by in (("docker", "Docker"), ("podman", "Podman's service")):
        specs += [
            TransportSpec(
                scheme=scheme,
                factory=ContainerTransport.from_target,
                summary=f"a process in a container made for it, by {by}",
                example=f"{scheme}://python:3.12-slim",
                options=OPTIONS,
                capabilities=ContainerTransport.capabilities,
            ),
            TransportSpec(
                scheme=f"{scheme}+exec",
                factory=ExecTransport.from_target,
                summary=f"a process in a running container of {_KINDS[scheme].name}",
                example=f"{scheme}+exec://web-1",
                options=EXEC_OPTIONS,
                capabilities=ExecTransport.capabilities,
            ),
        ]
    return specs


@hookimpl
def holdfast_reap() -> list[str]:
    """Remove containers whose owner is dead, of the engines that are there."""
    removed: list[str] = []
    failures: list[Exception] = []
    for kind in _KINDS.values():
        endpoint = find(kind)
        if endpoint.scheme == "unix" and not Path(endpoint.address).exists():
            continue  # an engine that is not there holds nothing of ours
        try:
            removed += anyio.run(_reap, kind)
        except TransportError as error:  # the other engine is asked all the same
            failures.append(error)
    if failures:
        raise failures[0]
    return removed


async def _reap(kind: Kind) -> list[str]:
    from ._engine import NATIVE, Engine
    from ._reap import reap

    engine = Engine(kind, Settings(name="", timeout=_REAP))
    try:
        with anyio.fail_after(_REAP):
            return await reap(engine)
    except NATIVE as error:
        raise engine.unavailable(error) from error
    finally:
        await engine.aclose()
