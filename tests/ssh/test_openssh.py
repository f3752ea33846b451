"""SSH by the system's own ssh keeps the contract, and says what is particular to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from tests.ssh.kit import SSHContract, transport_to
from tests.ssh.machine import descendants, running, until
from tests.ssh.network import unused_port
from tests.ssh.sshd import Sshd

from holdfast import (
    Cause,
    Command,
    Exit,
    Fate,
    InvalidTarget,
    Signal,
    Transport,
    TransportBroken,
    TransportUnavailable,
)
from holdfast.testing import TransportContract
from holdfast.testing._kit import Kit

FAST = {"client": "openssh", "heartbeat": 1, "deadline": 2}


class TestOpenSSH(SSHContract):
    backends: ClassVar = [
        *TransportContract.backends,
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
    ]

    options: ClassVar = FAST

    # Where the contract allows for wires that know less, this one knows:

    async def test_a_closed_stdin_is_noticed(self, kit: Kit) -> None:
        """A worker that closes its stdin and lives is found out, and not said to be gone."""
        async with kit.open("exec <&-; echo closed; exec sleep 1000") as peer:
            await peer.line()
            broken = await peer.broken_send()
        assert (broken.cause, broken.worker, broken.exit) == (Cause.UNKNOWN, Fate.UNKNOWN, None)

    async def test_the_end_of_stdout_alone(self, kit: Kit) -> None:
        """stderr goes on where only stdout was closed: SSH has one end for both."""
        script = "echo bye; exec >&-; read -r line; echo $line >&2; exec 2>&-; exec sleep 1000"
        async with kit.open(script) as peer:
            assert await peer.line() == b"bye"
            await peer.send(b"goes on\n")
            assert await peer.stderr_to_end() == b"goes on\n"
            assert await peer.to_end() == b""
            assert await kit.stays_pending(peer.wait)

    # And where it knows less itself, it says so:

    async def test_codes_above_128(self, kit: Kit) -> None:
        """A code that may be a signal's is reported as a code, with that remark."""
        for script in ("kill -9 $$", "exit 137"):
            async with kit.open(script) as peer:
                exit = await peer.wait()
            assert exit == Exit(code=137, detail="or SIGKILL: OpenSSH's client cannot tell")
        async with kit.open("exit 255") as peer:
            assert await peer.wait() == Exit(code=255)

    async def test_our_own_kill_is_named(self, kit: Kit) -> None:
        """Our SIGKILL takes the shell above the worker too: no exit is told, and it is known."""
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            await peer.signal(Signal.KILL)
            with kit.within("the exit"):
                assert await peer.wait() == Exit(signal="SIGKILL")

    async def test_our_own_kill_with_the_pipes_held(self, kit: Kit) -> None:
        """A process that left the group and holds the pipes does not delay the exit."""
        async with kit.open("setsid sleep 5 & echo ready; exec sleep 1000") as peer:
            await peer.line()
            await peer.signal(Signal.KILL)
            with kit.within("the exit", 3):
                assert await peer.wait() == Exit(signal="SIGKILL")

    async def test_an_unnamed_signal(self, kit: Kit) -> None:
        """A session whose shell is killed by somebody else ends unreported, in so many words."""
        async with kit.open("kill -9 0") as peer:
            exit = await peer.wait()
        assert not exit.reported
        assert "signal" in str(exit)

    # The process in between:

    async def test_the_master_is_killed(self, kit: Kit) -> None:
        """If ssh is killed, that is a lost link; the loss says what became of ssh."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            os.kill(master(), signal.SIGKILL)
            data, broken = await peer.until_broken()
            assert data == b""
            assert broken is not None
            assert broken.cause is Cause.LINK_LOST
            assert broken.worker is Fate.MAYBE_ALIVE
            assert isinstance(broken.native, ConnectionError)
            assert "SIGKILL" in broken.detail
            assert await peer.wait() == Exit()
        assert await kit.probe("echo anew") == b"anew\n"

    async def test_the_master_ends_politely(self, kit: Kit) -> None:
        """If ssh closes all its pipes in good order, that is still no end of the worker."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            os.kill(master(), signal.SIGTERM)
            _, broken = await peer.until_broken()
        assert broken is not None
        assert broken.cause is Cause.LINK_LOST

    async def test_the_last_words_of_ssh(self, kit: Kit, sshd: Sshd) -> None:
        """A lost link is told in ssh's own words."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            sshd.kill_sessions()
            _, broken = await peer.until_broken()
            assert broken is not None
            assert "ssh: " in broken.detail
            assert any(words in broken.detail for words in ("closed by remote", "disconnect"))


def master() -> int:
    """The process of the one ssh of ours."""
    found = [pid for pid in descendants([os.getpid()], running()) if _is_master(pid)]
    assert len(found) == 1, found
    return found[0]


def _is_master(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words[0].endswith(b"ssh") and b"-M" in words


async def run(transport: Transport, script: str) -> bytes:
    """Run a script to its end, and close the transport."""
    data = b""
    try:
        with anyio.fail_after(20):
            async with transport.open(Command(("sh", "-c", script))) as channel:
                while piece := await channel.receive():
                    data += piece
    finally:
        await transport.aclose()
    return data


# -- the words of each failure -----------------------------------------------------------------


async def refusal(target: str) -> str:
    """What an open says that cannot succeed."""
    transport = transport_to(target)
    with pytest.raises(TransportUnavailable) as caught:
        await run(transport, "true")
    return str(caught.value)


@pytest.mark.anyio
async def test_no_such_host(sshd: Sshd) -> None:
    """A host that is not found is named."""
    target = sshd.target(**FAST).replace("127.0.0.1", "no-such-host.invalid")
    assert "no such host: 'no-such-host.invalid'" in await refusal(target)


@pytest.mark.anyio
async def test_refused(sshd: Sshd) -> None:
    """A port without a server is said to refuse."""
    assert "refused the connection" in await refusal(sshd.target(port=unused_port(), **FAST))


@pytest.mark.anyio
async def test_silent_host(sshd: Sshd) -> None:
    """A server that accepts and says nothing is given up in time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = sshd.target(port=mute.getsockname()[1], timeout=1, **FAST)
        words = await refusal(target)
    assert "did not" in words
    assert "timeout" in words


@pytest.mark.anyio
async def test_unknown_host_key(sshd: Sshd, tmp_path: Path) -> None:
    """A host key that is not known is refused, with what to do; accept-new takes it."""
    target = sshd.target(known_hosts=tmp_path / "none", **FAST)
    assert "is not known" in await refusal(target)
    assert await run(transport_to(f"{target}&host_keys=accept-new"), "echo in") == b"in\n"


@pytest.mark.anyio
async def test_changed_host_key(sshd: Sshd, tmp_path: Path) -> None:
    """A changed host key is refused, in other words, whatever host_keys says."""
    wrong = tmp_path / "known_hosts"
    key = sshd.identity.with_name(f"{sshd.identity.name}.pub").read_text()
    wrong.write_text(f"[127.0.0.1]:{sshd.port} {key}")
    words = await refusal(sshd.target(known_hosts=wrong, host_keys="accept-new", **FAST))
    assert "another than the one that is known" in words


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A key that no server lets in."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    return key


@pytest.mark.anyio
async def test_permission_denied(sshd: Sshd, stranger: Path) -> None:
    """A key that is not let in is refused, and the server's methods are named."""
    words = await refusal(sshd.target(identity=stranger, **FAST))
    assert "(publickey)" in words
    assert "authorized_keys" in words


@pytest.mark.anyio
async def test_too_many_keys(
    make_sshd: Callable[..., Sshd],
    stranger: Path,
    tmp_path: Path,
) -> None:
    """A server that has heard of enough keys is told apart from one that knows none."""
    server = make_sshd(MaxAuthTries=1)
    config = tmp_path / "config"
    config.write_text(
        f"IdentityFile {stranger}\nIdentityFile {server.identity}\nIdentitiesOnly yes\n"
    )
    words = await refusal(server.target(config=config, identity=None, **FAST))
    assert "more keys" in words


@pytest.mark.anyio
async def test_bad_configuration(sshd: Sshd, tmp_path: Path) -> None:
    """A line of the configuration that ssh does not take is shown."""
    config = tmp_path / "config"
    config.write_text("NoSuchThing yes\n")
    words = await refusal(sshd.target(config=config, **FAST))
    assert "nosuchthing" in words.lower()
    assert "line 1" in words


@pytest.mark.anyio
async def test_no_ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ssh program, it is said which package has it."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "openssh-client" in await refusal(sshd.target(**FAST))


@pytest.mark.anyio
async def test_nothing_is_an_option(sshd: Sshd) -> None:
    """No part of a target is taken for an option of ssh."""
    from holdfast_transports.ssh import SSHTransport

    for host, user in (("-oProxyCommand=touch /tmp/no", None), ("h", "-x"), ("h\nx", None)):
        with pytest.raises(InvalidTarget):
            await run(SSHTransport(host, user=user, client="openssh"), "true")


# -- the server's and the user's own settings --------------------------------------------------


@pytest.mark.anyio
async def test_max_sessions(make_sshd: Callable[..., Sshd]) -> None:
    """Where a connection is full, the next worker gets another."""
    server = make_sshd(MaxSessions=2)
    transport = transport_to(server.target(**FAST))
    try:
        async with transport.open(Command(("cat",))) as one:
            async with transport.open(Command(("cat",))) as other:
                for channel in (one, other):
                    await channel.send(b"x")
                    assert await channel.receive() == b"x"
    finally:
        await transport.aclose()


@pytest.mark.anyio
async def test_one_session_is_too_few(make_sshd: Callable[..., Sshd]) -> None:
    """A server that allows one session is refused, in words."""
    assert "MaxSessions" in await refusal(make_sshd(MaxSessions=1).target(**FAST))


@pytest.fixture
def own_master(sshd: Sshd, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A ControlMaster that the user started: the configuration that names it, and its process."""
    path = Path(f"/tmp/hf-test-{os.getpid()}")
    config = tmp_path / "config"
    config.write_text(
        f"Match all\n  ControlPath {path}\n  ServerAliveInterval 1\n  ServerAliveCountMax 2\n"
        f"{sshd.config.read_text()}"
    )
    process = subprocess.Popen(["ssh", "-F", config, "-M", "-N", "sshd"], stdin=subprocess.DEVNULL)
    try:
        until(path.is_socket, "the master listens")
        yield config, process
    finally:
        process.terminate()
        process.wait(5)
        path.unlink(missing_ok=True)


@pytest.mark.anyio
async def test_the_users_master(
    own_master: tuple[Path, subprocess.Popen[bytes]], sshd: Sshd
) -> None:
    """The user's own ControlMaster is used, without a login, and is left as it was."""
    config, process = own_master
    sshd.kill_listener()  # nobody logs in any more
    target = f"ssh://sshd?config={config}&client=openssh&heartbeat=1&deadline=2"
    for _ in range(2):
        assert await run(transport_to(target), "echo in") == b"in\n"
    assert process.poll() is None


@pytest.mark.anyio
async def test_a_users_master_that_would_not_notice(
    own_master: tuple[Path, subprocess.Popen[bytes]], sshd: Sshd
) -> None:
    """A master whose configuration notices no silent link is used where none is expected to."""
    config, _ = own_master
    config.write_text(config.read_text().replace("ServerAliveInterval 1", "ServerAliveInterval 0"))
    target = f"ssh://sshd?config={config}&client=openssh"
    script = "echo $SSH_CONNECTION"
    theirs = await run(transport_to(f"{target}&heartbeat=0"), script)
    assert await run(transport_to(f"{target}&heartbeat=0"), script) == theirs
    assert await run(transport_to(target), script) != theirs


@pytest.mark.anyio
async def test_the_users_master_is_lost(
    own_master: tuple[Path, subprocess.Popen[bytes]], sshd: Sshd
) -> None:
    """If the user's master is gone that is a lost link."""
    config, process = own_master
    transport = transport_to(f"ssh://sshd?config={config}&client=openssh")
    try:
        async with transport.open(Command(("cat",))) as channel:
            process.send_signal(signal.SIGSTOP)
            sshd.kill_sessions()
            process.send_signal(signal.SIGCONT)
            with anyio.fail_after(10), pytest.raises(TransportBroken) as caught:
                await channel.receive()
    finally:
        await transport.aclose()
    assert caught.value.cause is Cause.LINK_LOST


def test_no_master_outlives_us(sshd: Sshd) -> None:
    """If our program is killed, its ssh ends too, and with it the worker."""
    script = (
        "import anyio, sys\n"
        "from holdfast import Command, Registry\n"
        "async def main():\n"
        "    transport = Registry().transport(sys.argv[1])\n"
        "    async with transport.open(Command(('sh', '-c', 'echo $$; exec cat'))) as channel:\n"
        "        print((await channel.receive()).decode(), flush=True)\n"
        "        await anyio.sleep(60)\n"
        "anyio.run(main)\n"
    )
    command = [sys.executable, "-c", script, sshd.target(**FAST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        mine = [pid for pid in descendants([process.pid], running()) if _is_master(pid)]
        assert len(mine) == 1
        words = Path(f"/proc/{mine[0]}/cmdline").read_bytes().decode().split("\0")
        folder = Path(words[words.index("-S") + 1]).parent
        assert folder.is_dir()
        process.kill()
    until(lambda: mine[0] not in running(), "ssh is gone")
    until(lambda: worker not in running(), "the worker is gone")
    until(lambda: not folder.exists(), "the socket's folder is gone")
