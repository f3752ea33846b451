"""Connections over SSH: how many there are, what is agreed on, what is said if there is none."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from tests.ssh.machine import command_line, running
from tests.ssh.network import drop, listener_on, unused_port
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

import holdfast
from holdfast import Channel, Command, InvalidTarget, Registry, Signal, TransportUnavailable
from holdfast_transports.ssh import ClientKind, SSHTransport, _channel
from holdfast_transports.ssh._paramiko import Client, ParamikoChannel

pytestmark = pytest.mark.anyio


def reach(server: Sshd, **options: object) -> SSHTransport:
    """A transport to a server of the tests."""
    known: dict[str, object] = {
        "port": server.port,
        "user": server.user,
        "identity": server.identity,
        "known_hosts": server.known_hosts,
        "config": "none",
    }
    return SSHTransport(server.host, **{**known, **options})  # type: ignore[arg-type]


async def line(channel: Channel) -> bytes:
    """The next line."""
    data = b""
    with anyio.fail_after(10):
        while not data.endswith(b"\n"):
            data += await channel.receive(1)
    return data[:-1]


async def output(transport: SSHTransport, *argv: str) -> bytes:
    """All that a command prints."""
    data = b""
    with anyio.fail_after(20):
        async with transport.open(Command(argv)) as channel:
            while piece := await channel.receive():
                data += piece
    return data


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nobody tells of another process's end
            await anyio.sleep(0.02)


async def refusal(transport: SSHTransport) -> str:
    """The words with which a transport cannot be used."""
    try:
        with anyio.fail_after(20), pytest.raises(TransportUnavailable) as caught:
            async with transport.open(Command(("true",))):
                pass
    finally:
        await transport.aclose()
    return str(caught.value)


def client_of(channel: Channel) -> Client:
    assert isinstance(channel, ParamikoChannel)
    return channel._client


# -- one connection, or a few --------------------------------------------------------------------


async def test_channels_share_a_connection(sshd: Sshd) -> None:
    """Many opens at once share one handshake and one connection; a later one uses it, too."""
    transport = reach(sshd)
    async with AsyncExitStack() as stack:
        channels: list[Channel] = []

        async def one() -> None:
            channels.append(await stack.enter_async_context(transport.open(Command(("cat",)))))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(one)
        await one()
        assert len({id(client_of(each)) for each in channels}) == 1
        assert len(sshd.sessions()) == 1
    await transport.aclose()


async def test_a_server_that_allows_few_sessions(make_sshd: Callable[..., Sshd]) -> None:
    """Where the server allows few sessions on a connection, there are further connections."""
    server = make_sshd(MaxSessions=3)
    transport = reach(server, connections=4)
    async with AsyncExitStack() as stack:
        opened: list[Channel] = []

        async def one(number: int) -> None:
            opened.append(await stack.enter_async_context(transport.open(Command(("cat",)))))
            await opened[-1].send(b"%d\n" % number)

        async with anyio.create_task_group() as tasks:
            for number in range(8):  # two beside the guard, on each of four
                tasks.start_soon(one, number)
        assert len({id(client_of(each)) for each in opened}) == 4
        assert sorted([await line(each) for each in opened]) == [b"%d" % n for n in range(8)]
        with pytest.raises(TransportUnavailable, match=r"all 4 connections .* are full, with 8"):
            async with transport.open(Command(("cat",))):
                pass
        await opened[0].aclose()
        assert await output(transport, "echo", "room again") == b"room again\n"
    await transport.aclose()
    await until(lambda: not server.commands())


async def test_a_server_that_allows_one_session(make_sshd: Callable[..., Sshd]) -> None:
    """Where only one session is allowed, that is said: a worker needs its guard beside it."""
    server = make_sshd(MaxSessions=1)
    assert "raise MaxSessions" in await refusal(reach(server))


@pytest.mark.timeout(180)
async def test_two_hundred_sessions(sshd: Sshd, anyio_backend_name: str) -> None:
    """200 sessions run over 23 connections, with one thread for each connection."""
    before = threading.active_count()
    transport = reach(sshd, timeout=60)
    began = time.monotonic()
    async with holdfast.SessionManager() as manager:
        sessions: list[holdfast.Session] = []

        async def one() -> None:
            session = await manager.start(transport, ["cat"], dialect="lines")
            sessions.append(session)

        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(one)
        opened = time.monotonic() - began
        threads = threading.active_count() - before
        for number, session in enumerate(sessions):
            await session.send(b"%d\n" % number)
        for number, session in enumerate(sessions):
            async with session.subscribe() as events:
                async for event in events:
                    if isinstance(event, holdfast.Line):
                        assert event.data == b"%d" % number
                        break
    await transport.aclose()
    print(f"{anyio_backend_name}: 200 sessions in {opened:.1f} s, {threads} threads")
    assert threads <= 23 + 2  # and an event loop's own


async def test_a_dead_connection_is_replaced(sshd: Sshd) -> None:
    """After its connection was killed, a transport opens the next channel over a new one."""
    transport = reach(sshd)
    assert await output(transport, "echo", "one") == b"one\n"
    sshd.kill_sessions()
    assert await output(transport, "echo", "two") == b"two\n"
    await transport.aclose()


async def test_a_silent_connection_that_nobody_uses_is_replaced(
    sshd: Sshd, relay: Callable[..., Relay]
) -> None:
    """The heartbeat looks after a connection without channels: the next open does not wait."""
    link = relay()
    transport = reach(sshd, port=link.port, heartbeat=0.2, deadline=0.5)
    assert await output(transport, "echo", "one") == b"one\n"
    assert transport._pool is not None
    (used,) = transport._pool._lines
    link.blackhole()
    await until(lambda: used.connection.lost)
    link.heal()
    began = anyio.current_time()
    assert await output(transport, "echo", "two") == b"two\n"
    assert anyio.current_time() - began < 5
    await transport.aclose()


async def test_an_idle_connection_lives_on(sshd: Sshd) -> None:
    """Silence is no loss while the server answers: many heartbeats later all is well."""
    transport = reach(sshd, heartbeat=0.1, deadline=0.5)
    async with transport.open(Command(("cat",))) as channel:
        client = client_of(channel)
        with anyio.move_on_after(1.5):
            await channel.receive()
        assert client.loss is None
        await channel.send(b"here\n")
        assert await line(channel) == b"here"
    await transport.aclose()


async def test_a_slow_link_is_not_a_silent_one(sshd: Sshd, relay: Callable[..., Relay]) -> None:
    """While data trickles, an answer that queues behind it may take longer than the deadline."""
    link = relay()
    transport = reach(sshd, port=link.port, heartbeat=0.2, deadline=0.6)
    size = 300_000
    async with transport.open(
        Command(("sh", "-c", f"read -r x; head -c {size} /dev/zero"))
    ) as channel:
        link.rate(150_000)
        await channel.send(b"go\n")
        got = 0
        with anyio.fail_after(20):
            while data := await channel.receive():
                got += len(data)
        assert got == size
    await transport.aclose()


async def test_key_exchange_in_full_flow(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys are agreed on while data flows both ways, and nothing is lost or stalls."""
    from paramiko.packet import Packetizer

    monkeypatch.setattr(Packetizer, "REKEY_BYTES", 1_000_000)
    exchanged = 0
    switch = Client._parse_newkeys

    def count(self: Client, message: object) -> object:
        nonlocal exchanged
        exchanged += 1
        return switch(self, message)

    monkeypatch.setattr(Client, "_parse_newkeys", count)
    transport = reach(sshd)
    piece, pieces = os.urandom(50_000), 100

    async def feed(channel: Channel) -> None:
        for _ in range(pieces):
            await channel.send(piece)
        await channel.send_eof()

    with anyio.fail_after(60):
        async with transport.open(Command(("cat",))) as channel, anyio.create_task_group() as tasks:
            tasks.start_soon(feed, channel)
            got = b""
            while data := await channel.receive():
                got += data
    await transport.aclose()
    assert got == piece * pieces
    assert exchanged > 3


async def test_the_algorithms(sshd: Sshd) -> None:
    """What is agreed on is what we prefer, and nothing weak is even offered."""
    transport = reach(sshd)
    async with transport.open(Command(("cat",))) as channel:
        client = client_of(channel)
        assert client.remote_cipher == client.local_cipher == "aes128-gcm@openssh.com"
        assert client.host_key_type == "ssh-ed25519"
        options = client.get_security_options()
        offered = {*options.ciphers, *options.digests, *options.kex, *options.key_types}
        weak = ("cbc", "3des", "md5", "sha1", "ssh-rsa", "arcfour")
        assert not [name for name in offered for each in weak if each in name]
        assert client.get_log_channel().startswith("holdfast.")
    await transport.aclose()


async def test_the_agent_is_not_forwarded(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker sees no agent, though there is one here."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/no/such/agent")
    transport = reach(sshd)
    assert await output(transport, "sh", "-c", "echo ${SSH_AUTH_SOCK:-none}") == b"none\n"
    await transport.aclose()


# -- the far side --------------------------------------------------------------------------------


async def test_secrets_are_not_shown(sshd: Sshd) -> None:
    """Variables are in no argument list of the far side, neither before nor after the start."""
    transport = reach(sshd)
    secret = "s3cret-of-holdfast"
    command = Command(("sh", "-c", 'echo "$TOKEN"; exec cat'), env={"TOKEN": secret})
    async with transport.open(command) as channel:
        assert await line(channel) == secret.encode()
        assert not [each for each in sshd.processes() if secret in each.command]
    await transport.aclose()


@pytest.mark.parametrize("shell", ["dash", "bash", "zsh", "busybox sh", "fish", "tcsh"])
async def test_login_shells(make_sshd: Callable[..., Sshd], shell: str) -> None:
    """Workers start under every login shell, one that prints a greeting among them."""
    if shutil.which(shell.split(maxsplit=1)[0]) is None:
        pytest.fail(f"{shell} is missing: tests/run installs it")
    script = f'echo "Welcome to the far side!"; exec {shell} -c "$SSH_ORIGINAL_COMMAND"'
    server = make_sshd(ForceCommand=script)
    transport = reach(server)
    printed = await output(transport, "sh", "-c", 'printf %s "$1"', "sh", "it's $HOME\n")
    assert printed == b"it's $HOME\n"
    await transport.aclose()


async def test_a_login_shell_that_runs_nothing(make_sshd: Callable[..., Sshd]) -> None:
    """An account that runs no commands is told of, in its own words."""
    server = make_sshd(ForceCommand="echo This account is currently not available.; exit 1")
    text = await refusal(reach(server))
    assert "This account is currently not available." in text
    assert "exited with code 1" in text


async def test_a_login_shell_that_hangs(make_sshd: Callable[..., Sshd]) -> None:
    """A start-up file that waits for ever is given up in time."""
    server = make_sshd(ForceCommand="sleep 1000")
    text = await refusal(reach(server, timeout=1))
    assert "started no worker within 1 s" in text


async def test_the_guard_is_killed(sshd: Sshd) -> None:
    """Where somebody kills the guard, the next worker gets a new connection with a new one."""
    transport = reach(sshd)
    async with transport.open(Command(("cat",))) as first:
        guard = next(each for each in sshd.commands() if "holdfast-ready" in each.command)
        os.kill(guard.pid, signal.SIGKILL)
        assert transport._pool is not None
        (used,) = transport._pool._lines
        await until(lambda: used.guard.channel.finished)
        assert await output(transport, "echo", "anew") == b"anew\n"
        await first.send(b"still here\n")
        assert await line(first) == b"still here"
    await transport.aclose()
    sshd.kill_commands()


async def test_the_far_side_hears_nothing(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packets vanish, nobody tells the server; the guard ends the worker by itself."""
    monkeypatch.setattr(_channel, "GUARD", _channel.GUARD.replace(b"sleep 60", b"sleep 2"))
    transport = reach(sshd, heartbeat=0.3, deadline=0.6)
    script = "trap '' HUP INT TERM PIPE; echo $$; while :; do sleep 0.1; done"
    with drop(sshd.port) as fault:
        fault.stop()
        async with transport.open(Command(("sh", "-c", script))) as channel:
            pid = int(await line(channel))
            fault.start()
            await until(lambda: all(each.pid != pid for each in sshd.processes()))
        await transport.aclose()
    sshd.kill_sessions()


@pytest.mark.parametrize("client", ClientKind)
async def test_random_kills_leave_nothing(sshd: Sshd, client: ClientKind) -> None:
    """Whatever is killed, the worker, its connection or ourselves in opening: nothing is left."""
    import random

    seed = int(os.environ.get("HOLDFAST_SEED", random.randrange(2**32)))
    print(f"HOLDFAST_SEED={seed}")
    chance = random.Random(seed)
    transport = reach(sshd, client=client)
    scripts = (
        "exec cat",
        "sleep 1000 & exec cat",
        "trap '' HUP INT TERM; while :; do sleep 0.1; done",
        "sleep 1000 & exit 0",
    )
    for _ in range(25):
        with anyio.move_on_after(chance.choice([0.005, 0.02, 0.1, 5])):
            async with transport.open(Command(("sh", "-c", chance.choice(scripts)))) as channel:
                match chance.randrange(4):
                    case 0:
                        sshd.kill_sessions()
                    case 1:
                        sshd.kill_commands()
                    case 2:
                        await channel.signal(chance.choice([Signal.TERM, Signal.KILL]))
                    case _:
                        pass
    await transport.aclose()
    await until(lambda: not sshd.processes())


# -- the ways in which it cannot be reached --------------------------------------------------------


async def test_words_of_each_failure(sshd: Sshd, tmp_path: Path) -> None:
    """Each failure to connect has words of its own, with what to do next."""
    closed = unused_port()
    nothing = tmp_path / "empty"
    nothing.write_text("")
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")]
    await anyio.run_process(make)
    said = {
        "name": await refusal(SSHTransport("no-such-host.invalid", config="none")),
        "refused": await refusal(reach(sshd, port=closed)),
        "key": await refusal(reach(sshd, known_hosts=nothing)),
        "login": await refusal(reach(sshd, identity=tmp_path / "other")),
        "no key": await refusal(reach(sshd, identity=tmp_path / "none")),
        "locked": await refusal(reach(sshd, identity=sshd.encrypted_identity)),
    }
    assert "no such host: 'no-such-host.invalid'" in said["name"]
    assert "refused the connection; does an SSH server listen there?" in said["refused"]
    assert "SHA256:" in said["key"]
    assert str(nothing) in said["key"]
    assert f"did not let {sshd.user} in. It accepts publickey" in said["login"]
    assert "no such file" in said["no key"]
    assert "it has a passphrase, and there is no terminal to ask on" in said["locked"]
    assert "ssh-add" in said["locked"]


async def test_a_passphrase_that_is_given(sshd: Sshd) -> None:
    """A key with a passphrase is used where the passphrase is given; a wrong one is said."""
    transport = reach(sshd, identity=sshd.encrypted_identity, passphrase=sshd.passphrase)
    assert await output(transport, "echo", "in") == b"in\n"
    await transport.aclose()
    wrong = reach(sshd, identity=sshd.encrypted_identity, passphrase="wrong")
    assert f"{sshd.encrypted_identity} (not read" in await refusal(wrong)


async def test_a_server_that_does_not_answer(sshd: Sshd) -> None:
    """A place that takes connections and says nothing is given up in time."""
    with listener_on() as mute:
        text = await refusal(reach(sshd, port=mute.getsockname()[1], timeout=1))
    assert "no SSH server answered" in text


async def test_a_changed_host_key(sshd: Sshd, make_sshd: Callable[..., Sshd]) -> None:
    """A host whose key has changed is refused, and nothing is stored."""
    other = make_sshd()
    changed = other.known_hosts.read_text().replace(f":{other.port} ", f":{sshd.port} ")
    known = other.folder / "changed"
    known.write_text(changed)
    text = await refusal(reach(sshd, known_hosts=known, host_keys="accept-new"))
    assert "ssh-keygen" in text
    assert known.read_text() == changed


async def test_a_new_host_key_is_accepted_if_so_told(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With accept-new an unknown key is stored, with a warning, and is known from then on."""
    known = tmp_path / "fresh" / "known_hosts"
    transport = reach(sshd, known_hosts=known, host_keys="accept-new")
    with caplog.at_level(logging.WARNING, "holdfast.ssh"):
        assert await output(transport, "echo", "in") == b"in\n"
    await transport.aclose()
    assert "accepted the new ssh-ed25519 key SHA256:" in caplog.text
    again = reach(sshd, known_hosts=known)
    assert await output(again, "echo", "known") == b"known\n"
    await again.aclose()


async def test_a_revoked_host_key(sshd: Sshd, tmp_path: Path) -> None:
    """A key that is marked as revoked is refused."""
    known = tmp_path / "known_hosts"
    known.write_text(
        "".join(f"@revoked {each}\n" for each in sshd.known_hosts.read_text().splitlines())
    )
    assert "revoked" in (await refusal(reach(sshd, known_hosts=known))).lower()


@pytest.fixture
def agent(sshd: Sshd, tmp_path: Path) -> Iterator[str]:
    """An agent that holds the user's key."""
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not Path(path).exists():
            assert process.poll() is None
            time.sleep(0.01)  # nobody tells of a socket
        environ = {**os.environ, "SSH_AUTH_SOCK": path}
        subprocess.run(["ssh-add", "-q", str(sshd.identity)], env=environ, check=True)
        yield path
    finally:
        process.kill()
        process.wait()


async def test_keys_of_the_agent(
    sshd: Sshd, agent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A key that only the agent holds lets us in."""
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    monkeypatch.setenv("HOME", str(tmp_path))  # no keys there
    transport = reach(sshd, identity=())
    assert await output(transport, "echo", "in") == b"in\n"
    await transport.aclose()


async def test_a_password(make_sshd: Callable[..., Sshd]) -> None:
    """A server that wants a password says so; none is asked for."""
    server = make_sshd(PubkeyAuthentication=False, PasswordAuthentication=True)
    text = await refusal(reach(server))
    assert "It accepts password" in text
    text = await refusal(reach(server, password="wrong"))
    assert "tried: the password" in text


@pytest.mark.parametrize(
    "target",
    [
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://%2doProxyCommand=x",
        "ssh://-l@host",
        "ssh://a%0ab@host",
        "ssh://ho%0ast",
        "ssh://ho st",
        "ssh://me:secret@host",
        "ssh://host/path",
        "ssh://host?heartbeat=soon",
        "ssh://host?deadline=0",
        "ssh://host?connections=0",
        "ssh://host?host_keys=no",
        "ssh://host?client=putty",
        "ssh://host?hartbeat=1",
        "ssh://host?config=-x",
    ],
)
async def test_targets_that_are_refused(target: str) -> None:
    """What could be taken for an option, or is no value, is refused before anything happens."""
    with pytest.raises(InvalidTarget):
        async with Registry().transport(target).open(Command(("true",))):
            pass


# -- by way of others ----------------------------------------------------------------------------


def write_config(server: Sshd, folder: Path, *hosts: str) -> Path:
    """An ssh_config with these hosts, on top of what leads to a server."""
    path = folder / "config"
    path.write_text(
        "".join(f"Host {each}\n" for each in hosts)
        + "Host *\n"
        + f"  User {server.user}\n  IdentityFile {server.identity}\n  IdentitiesOnly yes\n"
        + f"  UserKnownHostsFile {server.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
    )
    return path


async def test_an_alias_of_the_configuration(sshd: Sshd, tmp_path: Path) -> None:
    """A name of the SSH configuration leads to its host, port, user, key and known hosts."""
    config = write_config(sshd, tmp_path, f"build7\n  HostName {sshd.host}\n  Port {sshd.port}")
    transport = SSHTransport("build7", config=config)
    assert await output(transport, "echo", "there") == b"there\n"
    await transport.aclose()


async def test_jump_hosts(sshd: Sshd, make_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    """Two hosts on the way are passed, each one's key verified; their loss is the link's loss."""
    first, second = make_sshd(), make_sshd()
    for server in (first, second):
        shutil.copy(sshd.identity.with_suffix(".pub"), server.folder / "authorized_keys")
        with sshd.known_hosts.open("a") as known:
            known.write(server.known_hosts.read_text())
    config = write_config(
        sshd,
        tmp_path,
        f"first\n  HostName {first.host}\n  Port {first.port}",
        f"second\n  HostName {second.host}\n  Port {second.port}",
        f"last\n  HostName {sshd.host}\n  Port {sshd.port}\n  ProxyJump first,second",
    )
    transport = SSHTransport("last", config=config, heartbeat=0.5, deadline=1.5)
    async with transport.open(Command(("cat",))) as channel:
        await channel.send(b"far\n")
        assert await line(channel) == b"far"
        assert (len(first.sessions()), len(second.sessions())) == (1, 1)
        second.kill_sessions()
        with anyio.fail_after(10), pytest.raises(holdfast.TransportBroken) as caught:
            await channel.receive()
        assert caught.value.cause in (holdfast.Cause.LINK_LOST, holdfast.Cause.LINK_SILENT)
    await transport.aclose()
    await until(lambda: not first.sessions() and not second.sessions())


async def test_a_jump_host_with_an_unknown_key(
    sshd: Sshd, make_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    """A jump host's key is verified like any other."""
    jump = make_sshd()
    config = write_config(
        sshd,
        tmp_path,
        f"jump\n  HostName {jump.host}\n  Port {jump.port}",
        f"last\n  HostName {sshd.host}\n  Port {sshd.port}\n  ProxyJump jump",
    )
    text = await refusal(SSHTransport("last", config=config))
    assert f":{jump.port}" in text or f"port {jump.port}" in text
    assert "SHA256:" in text


async def test_a_proxy_command(sshd: Sshd, tmp_path: Path) -> None:
    """A proxy command carries the connection, and ends with it, with all that it started."""
    beside = f"sleep {10**6 + os.getpid()}"
    python = f"{shutil.which('python3')} {tmp_path / 'pipe.py'} %h %p"
    python = f"sh -c '{beside} <&- >&- & exec {python}'"
    (tmp_path / "pipe.py").write_text(
        "import os, select, socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    ready, _, _ = select.select([0, s], [], [])\n"
        "    for each in ready:\n"
        "        data = os.read(0, 65536) if each == 0 else s.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        s.sendall(data) if each == 0 else os.write(1, data)\n"
    )
    config = write_config(
        sshd, tmp_path, f"last\n  HostName {sshd.host}\n  Port {sshd.port}\n  ProxyCommand {python}"
    )
    transport = SSHTransport("last", config=config)
    assert await output(transport, "head", "-c", "1000000", "/dev/zero") == bytes(1_000_000)
    await transport.aclose()

    def left() -> list[str]:
        commands = [command_line(pid) for pid in running()]
        return [each for each in commands if str(tmp_path) in each or each == beside]

    await until(lambda: not left())
