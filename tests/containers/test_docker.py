"""Workers in containers, beyond the contract: what is said, what is allowed, and what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from tests.containers.engine import BUSYBOX, Dockerd, base, busybox, packed
from tests.containers.kills import kills
from tests.containers.kit import transport_to
from tests.containers.registry import registry
from tests.ssh.machine import until
from tests.ssh.network import listener_on
from tests.ssh.relay import Relay

from holdfast import (
    Channel,
    Command,
    Exit,
    Signal,
    Transport,
    TransportUnavailable,
    WorkerNotStarted,
)
from holdfast_transports.container import _exec
from holdfast_transports.container._owner import LABEL, this_process

pytestmark = pytest.mark.anyio

EMPTY = "holdfast-tests/empty:1"
STUBBORN = "trap '' HUP INT TERM PIPE; echo $$; while :; do sleep 0.1; done"


async def output(transport: Transport, script: str, **how: object) -> str:
    """What a shell script prints there."""
    parts = []
    with anyio.fail_after(60):
        async with transport.open(Command(("sh", "-c", script), **how)) as channel:
            while data := await channel.receive():
                parts.append(data)
    await transport.aclose()
    return b"".join(parts).decode()


async def refused(target: str, *argv: str, error: type[Exception] = TransportUnavailable) -> str:
    """What is said where no worker can be started."""
    transport = transport_to(target)
    with anyio.fail_after(60), pytest.raises(error) as caught:
        async with transport.open(Command(argv or ("true",))):
            pass
    await transport.aclose()
    return str(caught.value)


async def line(channel: Channel) -> bytes:
    heard = b""
    with anyio.fail_after(30):
        while not heard.endswith(b"\n"):
            heard += await channel.receive()
    return heard.strip()


# -- what is said where no worker can be started -------------------------------------------------


async def test_a_missing_image_is_told_with_the_command_that_brings_it(dockerd: Dockerd) -> None:
    """Nothing is pulled without a word: the exact command is said."""
    said = await refused(dockerd.target("no-such/image:7"))
    assert "has no image 'no-such/image:7': docker pull no-such/image:7" in said


async def test_a_pull_that_fails_says_why(dockerd: Dockerd) -> None:
    """With pull=missing the engine is asked for the image, and its error is told."""
    said = await refused(dockerd.target("127.0.0.1:9/no-such:7", pull="missing"))
    assert "could not pull '127.0.0.1:9/no-such:7'" in said
    assert "refused" in said


async def test_a_pull_that_works(dockerd: Dockerd) -> None:
    """With pull=missing an image that is not there is brought, and its worker runs; once."""
    with registry(await anyio.to_thread.run_sync(busybox), "some/where:1") as image:
        target = dockerd.target(image, pull="missing")
        assert await output(transport_to(target), "echo up") == "up\n"
    assert await output(transport_to(target), "echo up") == "up\n"  # the registry is gone
    dockerd.api("DELETE", f"/images/{image}")
    assert "docker pull" in await refused(dockerd.target(image))


AS_NOBODY = """
import os, sys, anyio, holdfast

async def main(target):
    try:
        async with holdfast.Registry().transport(target).open(holdfast.Command(("true",))):
            print("it works")
    except holdfast.TransportUnavailable as error:
        print(error)

anyio.run(main, "docker://x?host=unix:///no/such/sock")  # what is imported late is imported now
os.setgroups([])
os.setresuid(65534, 65534, 65534)
anyio.run(main, sys.argv[1])
"""


@pytest.mark.parametrize(
    ("scheme", "advice"),
    [("docker", "usermod -aG docker USER"), ("podman", "systemctl --user enable")],
)
def test_a_socket_that_is_not_for_this_user(dockerd: Dockerd, scheme: str, advice: str) -> None:
    """Who may not use the engine's socket is told so, and what to do about it."""
    before = dockerd.folder.stat().st_mode
    dockerd.folder.chmod(0o711)  # as /run is: it is the socket that says no
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, dockerd.target(scheme=scheme)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        dockerd.folder.chmod(before)
    first, second = done.stdout.splitlines()
    assert "is not there" in first
    assert f"{dockerd.socket} may not be used by this user" in second
    assert advice in second


async def test_a_mount_of_nothing_is_refused(dockerd: Dockerd) -> None:
    """A directory that is not there is not made, by us or by the engine."""
    said = await refused(dockerd.target(mount="/no/such/place:/here"))
    assert "mounts no such thing" in said
    assert "/no/such/place" in said
    assert not os.path.exists("/no/such")  # noqa: ASYNC240 - a look


async def test_an_image_without_a_shell(dockerd: Dockerd) -> None:
    """It is said that the shell is missing, not that the worker's command is."""

    def make() -> bytes:
        with packed() as (tar, out):
            base(tar)
        return out.getvalue()

    dockerd.bring(EMPTY, make)
    said = await refused(dockerd.target(EMPTY), error=WorkerNotStarted)
    assert f"the image '{EMPTY}' has no sh" in said


async def test_a_name_that_is_taken(dockerd: Dockerd) -> None:
    """Two containers cannot have one name; the first one is not harmed."""
    transport = transport_to(dockerd.target(name="holdfast-only-one"))
    async with transport.open(Command(("cat",))) as channel:
        said = await refused(dockerd.target(name="holdfast-only-one"))
        assert "docker rm" in said
        await channel.send(b"still here\n")
        assert await line(channel) == b"still here"
    await transport.aclose()


async def test_engines_that_are_none(tmp_path: Path) -> None:
    """No socket, nobody at the socket, and somebody who is no engine: each with the next step."""
    nowhere = tmp_path / "none.sock"
    assert "is not there" in await refused(f"docker://x?host=unix://{nowhere}")
    assert "systemctl start docker" in await refused(f"docker://x?host=unix://{nowhere}")
    with listener_on() as stranger:
        port = stranger.getsockname()[1]

        async def talk() -> None:
            await anyio.wait_readable(stranger)
            connection, _ = stranger.accept()
            with connection:
                await anyio.wait_readable(connection)
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            said = await refused(f"docker://x?host=tcp://127.0.0.1:{port}")
    assert "is no engine, or wants TLS" in said
    assert "does not listen" in await refused(f"docker://x?host=tcp://127.0.0.1:{port}")


async def test_containers_that_cannot_be_used(dockerd: Dockerd) -> None:
    """Missing, stopped and paused containers are told apart, each with the command that helps."""
    said = await refused(dockerd.target("no-such-one", "docker+exec"))
    assert "has no container 'no-such-one'" in said
    made = dockerd.create("sleep", "1000")
    target = dockerd.target(made[:12], "docker+exec")
    dockerd.api("POST", f"/containers/{made}/pause")
    assert f"docker unpause {made[:12]}" in await refused(target)
    dockerd.api("POST", f"/containers/{made}/unpause")
    dockerd.api("POST", f"/containers/{made}/kill")
    assert f"docker start {made[:12]}" in await refused(target)
    dockerd.remove(made)


# -- what a worker may do ------------------------------------------------------------------------


async def test_a_container_gives_little_by_default(dockerd: Dockerd) -> None:
    """No capability, no new privileges, no network but its own, a limit of processes."""
    script = (
        "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ls /sys/class/net; "
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
    )
    words = (await output(transport_to(dockerd.target()), script)).split()
    assert words == [
        *("CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"),
        "lo",
        "512",
    ]


@pytest.mark.parametrize("options", [{}, {"user": "1000"}, {"read_only": "yes"}])
async def test_a_container_knows_itself_without_a_network(
    dockerd: Dockerd, options: dict[str, str]
) -> None:
    """``localhost`` has its address, whoever the worker is; and there is only that."""
    said = await output(
        transport_to(dockerd.target(**options)), "cat /etc/hosts; ls /sys/class/net"
    )
    assert ["127.0.0.1", "localhost"] in [each.split() for each in said.splitlines()]
    assert said.endswith("\nlo\n")


async def test_what_is_switched_off_by_name(dockerd: Dockerd) -> None:
    """Capabilities, privileges and users are the target's to choose."""
    transport = transport_to(
        dockerd.target(capabilities="default", new_privileges="yes", user="1000:1000", pids=33)
    )
    script = "id -u; id -g; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status"
    words = (await output(transport, script)).split()
    assert words[:2] == ["1000", "1000"]
    assert words[3] != "0" * 16
    assert words[5] == "0"


async def test_a_read_only_image(dockerd: Dockerd) -> None:
    """With read_only=yes nothing can be written but in mounts."""
    said = await output(
        transport_to(dockerd.target(read_only="yes")), "echo x >/tmp/x || echo refused"
    )
    assert said == "refused\n"


@pytest.mark.parametrize("user", ["", "1000"])
async def test_no_secret_shows_from_outside(dockerd: Dockerd, user: str) -> None:
    """Variables are in no inspection and no list of processes, for any user."""
    options = {"user": user} if user else {}
    transport = transport_to(dockerd.target(**options))
    command = Command(("sh", "-c", "echo $TOKEN; exec cat"), env={"TOKEN": "s3cret"})
    async with transport.open(command) as channel:
        assert await line(channel) == b"s3cret"
        for made in dockerd.containers():
            assert "s3cret" not in json.dumps(dockerd.api("GET", f"/containers/{made}/json"))
            assert "s3cret" not in json.dumps(dockerd.api("GET", f"/containers/{made}/top"))
    await transport.aclose()


async def test_a_paused_container_is_silent_and_no_more(dockerd: Dockerd) -> None:
    """While it is paused nothing is said of a loss; then it goes on."""
    transport = transport_to(dockerd.target(heartbeat=0.2, deadline=1))
    async with transport.open(Command(("cat",))) as channel:
        (made,) = [each for each in dockerd.containers() if each not in dockerd.kept]
        dockerd.api("POST", f"/containers/{made}/pause")
        await channel.send(b"later\n")
        with anyio.move_on_after(2):
            await channel.receive()
            raise AssertionError("a paused worker spoke")
        dockerd.api("POST", f"/containers/{made}/unpause")
        assert await line(channel) == b"later"
    await transport.aclose()


# -- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["docker", "docker+exec"])
async def test_an_open_that_is_cancelled_leaves_nothing(
    dockerd: Dockerd, container: str, scheme: str
) -> None:
    """At whatever moment: no container, and no process in the one that is there."""
    place = BUSYBOX if scheme == "docker" else container
    transport = transport_to(dockerd.target(place, scheme))
    for number in range(16):
        with anyio.move_on_after(number * 0.03):
            async with transport.open(Command(("sh", "-c", STUBBORN))) as channel:
                await channel.receive()
    await transport.aclose()
    assert {*dockerd.containers()} == dockerd.kept
    if scheme == "docker+exec":
        await workers_gone(dockerd, container)


async def workers_gone(dockerd: Dockerd, container: str) -> None:
    """Wait until none of our shells runs in a container that is there."""

    def left() -> bool:
        shells = [argv for _, argv in running(dockerd, container)]
        return any("holdfast" in each or "trap ''" in each for each in shells)

    await soon(lambda: not left(), "no worker is left")


def running(dockerd: Dockerd, container: str) -> list[tuple[int, str]]:
    """The processes in a container, each with its whole command line."""
    listed = dockerd.api("GET", f"/containers/{container}/top?ps_args=-eo%20pid,args")[1]
    return [(int(pid), argv) for pid, argv in listed["Processes"]]


async def soon(done: Callable[[], bool], what: str) -> None:
    """Wait for what nobody tells."""
    await anyio.to_thread.run_sync(until, done, what, 20.0)


MANAGER = """
import sys
import anyio
import holdfast
from holdfast_transports import _shell

if len(sys.argv) > 3:
    assert b"sleep 60 " in _shell.GUARD
    _shell.GUARD = _shell.GUARD.replace(b"sleep 60 ", sys.argv[3].encode())

async def main():
    async with holdfast.Registry().transport(sys.argv[1]).open(
        holdfast.Command(("sh", "-c", sys.argv[2]))
    ) as channel:
        print((await channel.receive()).decode(), end="", flush=True)
        await anyio.sleep(1000)

anyio.run(main)
"""


def manager(target: str, script: str = STUBBORN, *patience: str) -> subprocess.Popen[str]:
    """A program of its own that runs a worker; it has begun when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", MANAGER, target, script, *patience],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        raise AssertionError(process.communicate()[1])
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def doctor(dockerd: Dockerd) -> list[str]:
    """What ``holdfast doctor --reap`` says that it removed."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "doctor", "--reap", "--json"],
        env={**os.environ, "DOCKER_HOST": dockerd.host},
        capture_output=True,
        timeout=60,
        check=True,
    )
    checks = json.loads(done.stdout)["checks"]
    return [each["found"] for each in checks if each["name"].startswith("leftovers of docker")]


def test_doctor_removes_what_the_dead_left_and_nothing_else(dockerd: Dockerd) -> None:
    """A killed program's container goes; those of the living, of others and of elsewhere stay."""
    me = this_process()
    stay = {
        dockerd.create("sleep", "1000", Labels={LABEL: owner})
        for owner in (str(me), "nonsense", f"elsewhere/1/2/{me.pid}/1")
    }
    stay.add(dockerd.create("sleep", "1000"))
    process, other = manager(dockerd.target()), manager(dockerd.target())
    try:
        before = {*dockerd.containers()}
        killed(process)
        (said,) = doctor(dockerd)
        assert f"process {process.pid}, is dead" in said
        after = {*dockerd.containers()}
        assert len(before - after) == 1
        assert stay < after
    finally:
        killed(other)
    assert f"process {other.pid}, is dead" in doctor(dockerd)[0]
    assert doctor(dockerd) == ["nothing to remove"]
    assert {*dockerd.containers()} == stay | dockerd.kept
    for each in stay:
        dockerd.remove(each)


async def test_the_next_start_reaps_if_it_is_told_to(dockerd: Dockerd) -> None:
    """With reap=yes, a killed program's container is gone before a worker starts."""
    process = await anyio.to_thread.run_sync(manager, dockerd.target())
    (left,) = {*dockerd.containers()} - dockerd.kept
    killed(process)
    assert await output(transport_to(dockerd.target(reap="yes")), "echo up") == "up\n"
    assert left not in dockerd.containers()


async def test_a_guard_ends_the_workers_of_a_killed_program(
    dockerd: Dockerd, container: str
) -> None:
    """docker+exec: a stubborn worker ends soon after its program, whose guard only starts."""
    for _ in range(3):
        process = await anyio.to_thread.run_sync(manager, dockerd.target(container, "docker+exec"))
        killed(process)
        await workers_gone(dockerd, container)


def test_a_guard_ends_the_workers_of_an_engine_that_was_killed(
    make_dockerd: Callable[..., Dockerd],
) -> None:
    """docker+exec: where the container outlives its engine, no worker of ours lives on in it."""
    engine = make_dockerd("--live-restore")
    made = engine.create("sleep", "1000")
    target = engine.target(made, "docker+exec", heartbeat=0.1)
    # Nobody tells the guard, which has to miss our words: for a minute, here for a second.
    process = manager(target, STUBBORN, "sleep 1 ")
    assert "trap ''" in json.dumps(engine.api("GET", f"/containers/{made}/top"))
    engine.kill()
    engine.start()

    def left() -> bool:
        return "trap ''" in json.dumps(engine.api("GET", f"/containers/{made}/top"))

    until(lambda: not left(), "the worker is gone", 20.0)
    killed(process)
    engine.remove(made)


async def test_a_guard_that_is_only_starting(dockerd: Dockerd, container: str) -> None:
    """docker+exec: the first worker is signalled at once, and again, while its guard comes up."""
    script = "trap 'echo heard' INT; echo up; while :; do sleep 0.02; done"
    for _ in range(5):
        transport = transport_to(dockerd.target(container, "docker+exec"))
        async with transport.open(Command(("sh", "-c", script))) as channel:
            with anyio.fail_after(30):
                assert await line(channel) == b"up"
                for _ in range(3):
                    await channel.signal(Signal.INT)
                    assert await line(channel) == b"heard"
                await channel.signal(Signal.KILL)
                assert await channel.wait() == Exit(signal="SIGKILL")
        await transport.aclose()
    await workers_gone(dockerd, container)


async def test_a_guard_that_cannot_start(
    dockerd: Dockerd, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker+exec: that is said; the worker is signalled all the same, and the next is guarded."""
    made = dockerd.create("sleep", "1000")
    monkeypatch.setattr(_exec, "_GUARD", "exit 3")
    transport = transport_to(dockerd.target(made, "docker+exec"))
    async with transport.open(Command(("sh", "-c", STUBBORN))) as channel:
        await line(channel)
        await soon(lambda: "no guard could be started" in caplog.text, "a warning")
        with anyio.fail_after(30):
            await channel.signal(Signal.KILL)
            assert await channel.wait() == Exit(signal="SIGKILL")
    monkeypatch.undo()
    async with transport.open(Command(("sh", "-c", STUBBORN))) as channel:
        await line(channel)
        await soon(
            lambda: any("holdfast-guard" in argv for _, argv in running(dockerd, made)), "a guard"
        )
    await transport.aclose()
    await workers_gone(dockerd, made)
    dockerd.remove(made)


async def test_signals_without_a_guard(dockerd: Dockerd, container: str) -> None:
    """Where somebody killed the guard, signals and the close still reach the worker."""
    transport = transport_to(dockerd.target(container, "docker+exec"))
    async with transport.open(Command(("sh", "-c", STUBBORN))) as channel:
        await line(channel)
        await channel.signal(Signal.INT)  # the guard is up
        guards = [pid for pid, argv in running(dockerd, container) if "holdfast-guard" in argv]
        assert guards
        for each in guards:
            os.kill(each, signal.SIGKILL)
        await channel.signal(Signal.KILL)
        with anyio.fail_after(20):
            assert await channel.wait() == Exit(signal="SIGKILL")
    await transport.aclose()
    await workers_gone(dockerd, container)


async def test_what_could_not_be_removed_is_removed_later(dockerd: Dockerd) -> None:
    """An engine that does not answer when a worker is closed is asked again by the next start."""
    transport = transport_to(dockerd.target(heartbeat=0.2, deadline=0.5))
    async with transport.open(Command(("cat",))) as channel:
        dockerd.freeze()
        with anyio.fail_after(30):
            await channel.wait()
    dockerd.thaw()
    assert len({*dockerd.containers()} - dockerd.kept) == 1
    assert await output(transport, "echo up") == "up\n"
    assert {*dockerd.containers()} == dockerd.kept


async def test_a_loss_is_told_while_nothing_happens(
    make_dockerd: Callable[..., Dockerd],
) -> None:
    """A killed engine is noticed at once, by who waits for the exit alone."""
    engine = make_dockerd()
    transport = transport_to(engine.target())
    async with transport.open(Command(("cat",))) as channel, anyio.create_task_group() as tasks:

        async def end() -> None:
            await anyio.to_thread.run_sync(engine.kill)

        tasks.start_soon(end)
        began = time.monotonic()
        with anyio.fail_after(20):
            assert not (await channel.wait()).reported
        assert time.monotonic() - began < 10
    await anyio.to_thread.run_sync(engine.start)
    await transport.aclose()
    assert engine.containers() == []


@pytest.mark.parametrize("scheme", ["docker", "docker+exec"])
async def test_a_link_that_is_lost_in_a_start_is_no_more_than_a_start_that_failed(
    make_dockerd: Callable[..., Dockerd], relay: Callable[[Dockerd], Relay], scheme: str
) -> None:
    """Cut at any byte or moment, a start works or is told as unavailable; the next tidies up."""
    engine = make_dockerd()
    link = relay(engine)
    image = BUSYBOX
    if scheme == "docker+exec":
        image = engine.create("sleep", "1000")
        engine.kept.add(image)
    target = engine.target(image, scheme=scheme, host=f"tcp://{link.host}:{link.port}")
    failed = worked = 0
    transport = transport_to(target)

    async def start() -> None:
        nonlocal failed, worked
        try:
            with anyio.fail_after(60):
                async with transport.open(Command(("true",))) as channel:
                    worked += 1
                    await channel.wait()
        except TransportUnavailable:
            failed += 1
        link.heal()

    async def reset_later(milliseconds: int) -> None:
        await anyio.sleep(milliseconds / 1000)
        link.reset()

    for bytes_until in [*range(1, 1200, 80), 100_000]:
        link.cut_after(bytes_until)
        await start()
    for milliseconds in range(160, 3, -6):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reset_later, milliseconds)
            await start()
    assert failed
    assert worked
    with anyio.fail_after(60):
        while not {*engine.containers()} <= engine.kept:  # what was still in the making
            await start()
    await transport.aclose()


def test_nothing_is_left_of_what_was_killed_at_random(
    make_dockerd: Callable[..., Dockerd],
) -> None:
    """Managers, containers and the engine, killed at any moment: after reaping, no container."""
    killed, before, after = kills(make_dockerd(), 12, seed=2)
    print(f"{dict(killed)}: {before} containers left, {after} after reaping")
    assert killed["engine"] > 0
    assert after == 0
