"""The tools of this folder do what they say: the server, and each way to break a link to it."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import paramiko
import pytest

from holdfast import Target

from . import network, sshd as servers
from .machine import command, command_line, running, until
from .network import Direction, destroy, drop, iptables, listener_on
from .relay import Relay
from .sshd import Sshd

AT_MOST = 20.0
"""Seconds for whatever is to happen; none of it takes a tenth of that."""
SILENCE = 0.3
"""Seconds after which nothing is taken for silence; an answer takes some 3 ms."""


@contextmanager
def login(
    server: Sshd,
    run: str = "cat",
    *,
    port: int | None = None,
    key: Path | None = None,
    passphrase: str | None = None,
) -> Iterator[paramiko.Channel]:
    """A command that runs in the server, over paramiko."""
    with closing(paramiko.SSHClient()) as client:
        client.load_host_keys(str(server.known_hosts))
        client.connect(
            server.host,
            port or server.port,
            server.user,
            key_filename=str(key or server.identity),
            passphrase=passphrase,
            look_for_keys=False,
            allow_agent=False,
            timeout=AT_MOST,
            banner_timeout=AT_MOST,
            auth_timeout=AT_MOST,
        )
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session(timeout=AT_MOST)
        channel.settimeout(AT_MOST)
        channel.exec_command(run)
        yield channel


def ask(channel: paramiko.Channel, line: bytes = b"hello\n") -> bytes:
    """What ``cat`` answers."""
    channel.sendall(line)
    return channel.recv(1000)


def hangs(channel: paramiko.Channel, line: bytes = b"hello\n") -> bool:
    """Whether no answer comes, and no end either."""
    channel.settimeout(SILENCE)
    try:
        ask(channel, line)
    except TimeoutError:
        return True
    finally:
        channel.settimeout(AT_MOST)
    return False


def ssh(server: Sshd, *arguments: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with the system's ssh."""
    options = ["-p", str(port)] if port else []
    return subprocess.run(
        server.ssh(*arguments, options=options),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=AT_MOST,
    )


def in_server(server: Sshd, text: str) -> list[int]:
    """The commands in the server that have a text in their command line."""
    return [each.pid for each in server.commands() if text in each.command]


# The server


def test_the_systems_ssh_logs_in(sshd):
    """The ssh_config says all there is to say: output, stderr and status come back."""
    done = ssh(sshd, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_paramiko_logs_in(sshd):
    """known_hosts and the key suit paramiko too."""
    with login(sshd) as channel:
        assert ask(channel) == b"hello\n"


def test_a_key_with_a_passphrase_logs_in(sshd):
    """The second key needs its passphrase."""
    key = sshd.encrypted_identity
    with pytest.raises(paramiko.PasswordRequiredException), login(sshd, key=key):
        pass
    with login(sshd, key=key, passphrase=sshd.passphrase) as channel:
        assert ask(channel) == b"hello\n"


def test_a_target_names_the_server(sshd):
    """The target holds what holdfast needs; options are added, replaced and left out."""
    target = Target.parse(sshd.target(heartbeat=0.5, known_hosts=None, config="/a b&c"))
    assert (target.user, target.host, target.port) == (sshd.user, sshd.host, sshd.port)
    assert target.options == {
        "identity": str(sshd.identity),
        "config": "/a b&c",
        "heartbeat": "0.5",
    }
    assert Target.parse(sshd.target(port=7)).port == 7


def test_what_a_command_is_given(sshd):
    """Pipes, a session and a process group of its own, and a home without anybody's start files."""
    done = ssh(sshd, "readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2; ps -o pid=,pgid=,sid= $$")
    *streams, numbers = done.stdout.splitlines()
    assert [each.partition(":")[0] for each in streams] == ["pipe"] * 3
    assert len(set(numbers.split())) == 1
    assert ssh(sshd, "echo $HOME").stdout == f"{sshd.home}\n"


def test_servers_have_their_own_keys(sshd, make_sshd):
    """A client that knows one server refuses the other."""
    other = make_sshd()
    assert ssh(other, "echo yes").stdout == "yes\n"
    done = ssh(sshd, "echo yes", port=other.port)
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


def test_a_taken_port_is_left_alone(monkeypatch):
    """Who loses the race for a port takes another one."""
    with listener_on() as taken:
        offers = [taken.dup()]
        free = listener_on
        monkeypatch.setattr(servers, "listener_on", lambda: offers.pop() if offers else free())
        with Sshd() as server:
            assert server.port != taken.getsockname()[1]
            assert "Address already in use" in server.tail()
            assert ssh(server, "echo yes").stdout == "yes\n"


def test_settings_replace_the_defaults(make_sshd):
    """A setting takes the place of the default, whatever its case; the environment is added to."""
    server = make_sshd(maxsessions=1, SetEnv="COLOUR=blue", PermitOpen=["none"])
    with login(server, "echo $COLOUR; cat") as channel:
        assert channel.recv(100) == b"blue\n"
        with pytest.raises(paramiko.ChannelException):
            channel.get_transport().open_session(timeout=AT_MOST)
        assert server.commands(), "its own mark is still there"


@pytest.mark.parametrize(
    ("shell", "package", "says"),
    [
        ("fish", "fish", 'set -l x 1; if test -n "$FISH_VERSION"; echo fish $x; end'),
        ("tcsh", "tcsh", "set x = 1; if ($?tcsh) echo tcsh $x"),
        ("zsh", "zsh", 'x=1; [[ -n $ZSH_VERSION ]] && echo zsh "$x"'),
    ],
)
def test_another_shell_runs_the_commands(make_sshd, shell, package, says):
    """ForceCommand stands for a user who has another login shell."""
    path = command(shell, package)
    server = make_sshd(ForceCommand=f'exec {path} -c "$SSH_ORIGINAL_COMMAND"')
    assert ssh(server, says).stdout == f"{shell} 1\n"


def test_a_killed_listener_refuses_and_comes_back(make_sshd):
    """Connections live on without the listener, and are still the server's; the port stays."""
    server = make_sshd()
    port = server.port
    with login(server) as channel:
        until(lambda: len(server.commands()) == 1, "cat runs")
        before = server.sessions()
        server.kill_listener()
        assert server.pid is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, port), AT_MOST)
        assert server.sessions() == before
        assert ask(channel) == b"hello\n"
        server.start()
        assert server.port == port
        with login(server) as second:
            assert ask(second) == b"hello\n"
            assert set(before) < set(server.sessions())
            server.kill_sessions()
            assert channel.recv(1) == second.recv(1) == b""


def test_stop_leaves_nothing():
    """Connections, commands, those that left their session, files: all are gone."""
    with Sshd() as server:
        with login(server, "setsid sleep 1000 & cat"):
            until(lambda: in_server(server, "sleep 1000"), "it runs")
            processes = server.processes()
            server.stop()
    assert len(processes) >= 3
    assert not running().keys() & {each.pid for each in processes}
    assert not server.processes()
    assert not server.folder.exists()


# Its processes


def test_killed_sessions_end_connections(sshd):
    """Both clients see the end at once; what the sessions started lives on, and is found."""
    with subprocess.Popen(
        sshd.ssh("exec sleep 1001"), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as client:
        with login(sshd, "exec sleep 1001") as channel:
            until(lambda: len(in_server(sshd, "sleep 1001")) == 2, "both run")
            killed = sshd.kill_sessions()
            assert len(killed) >= 2
            assert channel.recv(1) == b""
            assert client.wait(AT_MOST) == 255
    assert not sshd.sessions()
    assert len(in_server(sshd, "sleep 1001")) == 2
    assert len([each for each in sshd.kill_commands() if "sleep 1001" in each.command]) == 2
    assert not sshd.processes()


def test_frozen_sessions_hang_and_thaw(sshd):
    """Nothing comes from a frozen session, no end either; thawed, it goes on where it was."""
    with login(sshd) as channel:
        assert ask(channel) == b"hello\n"
        frozen = sshd.freeze()
        assert frozen == sshd.sessions()
        assert hangs(channel, b"late\n")
        sshd.thaw()
        assert channel.recv(100) == b"late\n"
        with login(sshd) as second:
            assert ask(second) == b"hello\n"


def test_who_left_the_session_is_found(sshd):
    """A process with a session of its own is found when nothing else is left of the connection."""
    with login(sshd, "setsid sleep 1002 </dev/null >/dev/null 2>&1 & echo $!; cat") as channel:
        child = int(channel.recv(100))
        until(lambda: in_server(sshd, "sleep 1002"), "it runs")
    until(lambda: not sshd.sessions() and len(sshd.commands()) == 1, "the session is gone")
    (left,) = sshd.processes()
    assert (left.pid, left.command) == (child, "sleep 1002")
    sshd.kill_commands()
    assert not sshd.processes()


def test_other_servers_processes_are_not_its_own(sshd, make_sshd):
    """Each server counts its own."""
    with login(make_sshd()) as channel:
        assert ask(channel) == b"hello\n"
        assert not sshd.processes()


# The network


@pytest.mark.parametrize("direction", Direction)
def test_dropped_packets_are_silence(sshd, tmp_path, direction):
    """Nobody is told of a drop; what was sent meanwhile arrives afterwards."""
    seen = tmp_path / "seen"
    with login(sshd, f"exec tee {seen}") as channel:
        assert ask(channel, b"1\n") == b"1\n"
        with drop(sshd.port, direction):
            assert hangs(channel, b"2\n")
            if direction is Direction.TO_CLIENT:
                until(lambda: seen.read_text() == "1\n2\n", "the server has it")
            else:
                assert seen.read_text() == "1\n"
            with pytest.raises(TimeoutError):
                socket.create_connection((sshd.host, sshd.port), SILENCE)
        assert channel.recv(100) == b"2\n"


def test_a_drop_is_started_and_stopped(sshd):
    """Without a block too; to stop twice is no mistake, and no rule stays."""
    dropping = drop(sshd.port)
    with login(sshd) as channel:
        dropping.start()
        assert hangs(channel)
        dropping.stop()
        dropping.stop()
        assert channel.recv(100) == b"hello\n"
    assert f"port {sshd.port}" not in iptables("-S").stdout


def test_only_rules_of_the_dead_are_swept(sshd):
    """A process that was killed left its rule; it goes, and those of the living stay."""
    dead = f"{network.COMMENT}:{2**22 + 1}-1:{os.getpid()}"  # beyond all that Linux gives
    rule = ["INPUT", "-p", "tcp", "--dport", "1", "-m", "comment", "--comment", dead, "-j", "DROP"]
    assert iptables("-A", *rule).returncode == 0
    with drop(sshd.port):
        network.remove_rules(dead_owners=True)
        rules = iptables("-S").stdout
        assert dead not in rules
        assert f"--dport {sshd.port}" in rules
        assert len(network.remove_rules()) == 2
    assert f"port {sshd.port}" not in iptables("-S").stdout


@pytest.mark.parametrize(
    ("end", "error"), [("server", errno.ECONNRESET), ("client", errno.ECONNABORTED)]
)
def test_the_kernel_destroys_connections(make_sshd, end, error):
    """The client is told of a reset, or that its own socket was taken away; the server is too."""
    server = make_sshd()
    with login(server) as channel:
        assert ask(channel) == b"hello\n"
        with socket.create_connection((server.host, server.port), AT_MOST) as plain:
            assert plain.recv(100).startswith(b"SSH-2.0-")
            assert destroy(server.port, end) == 2
            assert end_of(plain)[1] == error
            assert channel.recv(1) == b""
        until(lambda: not server.sessions(), "the sessions see it")
    with login(server) as channel:
        assert ask(channel) == b"hello\n", "the listener is not meant"


# The relay


class Ends(ExitStack):
    """A relay, and the two ends of one connection through it; and of others, if wished."""

    def __init__(self, relay: Relay, listener: socket.socket) -> None:
        super().__init__()
        self.relay = relay
        self.listener = listener
        self.client, self.server = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        address = (self.relay.host, self.relay.port)
        client = self.enter_context(socket.create_connection(address, AT_MOST))
        server = self.enter_context(self.listener.accept()[0])
        server.settimeout(AT_MOST)
        return client, server


@pytest.fixture
def ends() -> Iterator[Ends]:
    with listener_on() as listener:
        listener.settimeout(AT_MOST)
        with Relay(listener.getsockname()[1]) as relay:
            with Ends(relay, listener) as made:
                yield made


def silent(end: socket.socket) -> bool:
    """Whether nothing can be read: no bytes, no end, no error."""
    return not select.select([end], [], [], SILENCE)[0]


def all_of(end: socket.socket) -> bytes:
    """What comes until the end."""
    return b"".join(iter(lambda: end.recv(65536), b""))


def end_of(end: socket.socket) -> tuple[bytes, int]:
    """What comes until the error, and the error's number; 0 if the end is an ordinary one."""
    data = b""
    try:
        while more := end.recv(65536):
            data += more
    except OSError as error:
        return data, error.errno or -1
    return data, 0


def reset_at_once(relay: Relay) -> bool:
    """Whether a new connection is reset before anything else; it may be so early as connect(2)."""
    try:
        with socket.create_connection((relay.host, relay.port), AT_MOST) as client:
            return end_of(client) == (b"", errno.ECONNRESET)
    except ConnectionResetError:
        return True


def until_reset(end: socket.socket) -> bytes:
    """What comes until the reset."""
    data, error = end_of(end)
    assert error == errno.ECONNRESET
    return data


@contextmanager
def in_thread(call: Callable[[], object]) -> Iterator[None]:
    """Do something beside the block, and end with it."""
    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        thread.join(AT_MOST)
        assert not thread.is_alive()


def test_a_relay_passes_everything_on(ends):
    """Each byte, in both directions, counted; and each end by itself."""
    data = os.urandom(3_000_000)
    with in_thread(lambda: (ends.client.sendall(data), ends.client.shutdown(socket.SHUT_WR))):
        assert all_of(ends.server) == data
    ends.server.sendall(b"bye")
    ends.server.close()
    assert all_of(ends.client) == b"bye"
    assert (ends.relay.to_server, ends.relay.to_client) == (len(data), 3)
    until(lambda: ends.relay.open_links() == 0, "the connection has ended")
    assert ends.relay.accepted == 1


def test_a_reset_of_the_server_is_passed_on_after_its_bytes(ends):
    """What was sent before an RST arrives before it."""
    ends.client.sendall(b"unread")
    until(lambda: select.select([ends.server], [], [], 0)[0], "it is there")
    ends.server.sendall(b"x" * 1000)
    ends.server.close()  # with bytes unread: that is an RST
    assert until_reset(ends.client) == b"x" * 1000


def test_a_server_that_does_not_listen_is_a_reset(ends):
    """The relay has taken the connection, so a refusal can only be an RST."""
    ends.listener.close()
    assert reset_at_once(ends.relay)


def test_reset_meets_both_ends(ends):
    """Connections end with an RST; the next one is an ordinary one."""
    assert ends.relay.reset() == 1
    assert until_reset(ends.client) == until_reset(ends.server) == b""
    client, server = ends.connect()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_reset_may_leave_the_server_alone(ends):
    """A server that is not told keeps its connection, and what it says vanishes."""
    ends.relay.reset(server=False)
    assert until_reset(ends.client) == b""
    ends.server.sendall(b"x" * 1000)
    until(lambda: ends.relay.dropped == 1000, "the relay has read it")
    assert silent(ends.server)
    ends.server.close()
    until(lambda: ends.relay.open_links() == 0, "the connection has ended")


def test_reset_and_half_close_of_future_connections(ends):
    """If so wished they meet new connections too, until the link is healed."""
    address = (ends.relay.host, ends.relay.port)
    ends.relay.reset(future=True)
    assert reset_at_once(ends.relay)
    ends.relay.heal()
    ends.relay.half_close(future=True)
    with socket.create_connection(address, AT_MOST) as client:
        assert client.recv(1) == b""
    ends.relay.heal()
    with socket.create_connection(address, AT_MOST) as client:
        assert silent(client)


def test_half_close_ends_one_direction(ends):
    """The client reads the end, and what it sends still arrives."""
    assert ends.relay.half_close() == 1
    assert ends.client.recv(1) == b""
    ends.client.sendall(b"still here")
    assert ends.server.recv(100) == b"still here"
    ends.server.sendall(b"in vain")
    until(lambda: ends.relay.dropped == 7, "the relay has read it")


@pytest.mark.parametrize("direction", Direction)
def test_a_blackhole_swallows(ends, direction):
    """Bytes and ends are read and dropped, in the directions named; others pass."""
    ends.relay.blackhole(direction)
    ends.client.sendall(b"question")
    ends.server.sendall(b"answer")
    passed = 0
    if not direction.covers(Direction.TO_SERVER):
        passed += len(ends.server.recv(100))
    if not direction.covers(Direction.TO_CLIENT):
        passed += len(ends.client.recv(100))
    until(lambda: ends.relay.dropped + passed == 14, "the relay has read it")
    ends.client.shutdown(socket.SHUT_WR)
    ends.server.shutdown(socket.SHUT_WR)
    for end, swallowed in [
        (ends.server, direction.covers(Direction.TO_SERVER)),
        (ends.client, direction.covers(Direction.TO_CLIENT)),
    ]:
        if swallowed:
            assert silent(end)
        else:
            assert end.recv(1) == b""
    ends.relay.heal()
    assert ends.client.recv(1) == ends.server.recv(1) == b"", "healed, the ends are told"


def test_a_blackhole_hides_a_reset(ends):
    """That the other end has gone is not told either."""
    ends.relay.blackhole("to_client")
    ends.client.sendall(b"unread")
    assert ends.server.recv(1) == b"u"
    ends.server.close()  # with bytes unread: that is an RST
    ends.client.sendall(b"more")
    assert silent(ends.client)


def test_a_stall_fills_the_windows(ends):
    """Who writes is held, in the end; healed, every byte arrives."""
    ends.relay.stall("to_server")
    sent = 0
    while select.select([], [ends.client], [], SILENCE)[1]:
        sent += ends.client.send(b"x" * 65536, socket.MSG_DONTWAIT)
    assert silent(ends.server)
    ends.server.sendall(b"the other direction")
    assert select.select([ends.client], [], [], AT_MOST)[0]
    ends.relay.heal()
    received = 0
    while received < sent:
        received += len(ends.server.recv(65536))
    assert received == sent


@pytest.mark.parametrize("wanted", [0, 1, 1000, 1_000_000])
def test_a_cut_comes_after_so_many_bytes(ends, wanted):
    """The client gets exactly these, and then an RST."""
    ends.relay.cut_after(wanted)

    def send() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                ends.server.sendall(b"x" * 1000)

    with in_thread(send):
        assert len(until_reset(ends.client)) == wanted
    if wanted == 0:
        assert reset_at_once(ends.relay)
        return
    ends.client, ends.server = ends.connect()  # with the same allowance
    with in_thread(send):
        assert len(until_reset(ends.client)) == wanted


def test_a_delay_holds_bytes(ends):
    """Each direction takes so long, and both together twice as long."""
    ends.relay.delay(0.1)
    begin = time.monotonic()
    ends.client.sendall(b"ping")
    assert ends.server.recv(100) == b"ping"
    assert time.monotonic() - begin >= 0.1
    ends.server.sendall(b"pong")
    assert ends.client.recv(100) == b"pong"
    assert time.monotonic() - begin >= 0.2


def test_a_rate_is_kept(ends):
    """So many bytes take so long, and arrive unharmed."""
    data = os.urandom(30_000)
    ends.relay.rate(100_000)
    begin = time.monotonic()
    ends.server.sendall(data)
    ends.server.close()
    assert all_of(ends.client) == data
    assert time.monotonic() - begin >= 0.24  # the first twentieth of a second is free


def test_a_listener_is_shut_down_and_opened(ends):
    """New connections are refused, the old one lives on; healed, the port is the same."""
    port = ends.relay.port
    ends.relay.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ends.relay.host, port), AT_MOST)
    ends.client.sendall(b"x")
    assert ends.server.recv(1) == b"x"
    ends.relay.heal()
    assert ends.relay.port == port
    client, server = ends.connect()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_a_relay_stops(ends):
    """Its thread is gone, and so are its connections."""
    ends.relay.stop()
    assert ends.client.recv(1) == ends.server.recv(1) == b""
    assert f"relay-{ends.relay.port}" not in {each.name for each in threading.enumerate()}


def test_a_relay_stands_before_the_server(sshd, relay):
    """The server's keys are known at the relay's port; its faults are those of the connection."""
    link = relay()
    assert ssh(sshd, "echo yes", port=link.port).stdout == "yes\n"
    with login(sshd, port=link.port) as channel:
        assert ask(channel) == b"hello\n"
        link.blackhole()
        assert hangs(channel)
        link.reset()
        assert channel.recv(1) == b""
        assert isinstance(channel.get_transport().saved_exception, ConnectionResetError)
    link.heal()
    with login(sshd, port=link.port) as channel:
        link.half_close()
        assert channel.recv(1) == b""
    with login(sshd, port=link.port) as channel:
        link.stall()
        assert hangs(channel)
        link.heal()
        assert channel.recv(100) == b"hello\n"


# What conftest.py promises


@pytest.fixture
def run_pytest(pytester) -> Callable[[str], pytest.RunResult]:
    """Run tests with the conftest.py of this folder, in a process of their own."""
    root = str(Path(__file__).resolve().parents[2])
    pytester.makeconftest(
        f"import sys\nsys.path.insert(0, {root!r})\nfrom tests.ssh.conftest import *\n"
    )
    head = "import os, subprocess\nfrom tests.ssh.machine import until\n"
    head += "from tests.ssh.network import drop\n\n"

    def run(text: str) -> pytest.RunResult:
        pytester.makepyfile(head + text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)

    return run


SLEEP = f"sleep {10**6 + os.getpid()}"
"""Runs in nobody else's tests, since it is looked for on the whole machine."""

LEAVE = f"""
    leave = 'setsid {SLEEP} </dev/null >/dev/null 2>&1 & exit 0'
    subprocess.run(sshd.ssh(leave), check=True, timeout=20)
    until(sshd.commands, 'it runs')
"""


def test_a_failure_shows_the_log_and_leftovers_are_told(run_pytest):
    """The report of a failed test holds the server's log; what tests leave fails the last one."""
    result = run_pytest(f"def test_leaves(sshd):{LEAVE}\ndef test_fails(sshd):\n    assert False\n")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*tests left processes in the server:*",
            f"*{SLEEP}*seen after *::test_leaves*",
            "*log of sshd, port *",
            "Accepted publickey for *",
        ]
    )
    assert not machine_runs(SLEEP)


def test_an_interrupt_leaves_nothing(run_pytest):
    """Ctrl-C in the middle of a drop: no rule, no server, no process stays."""
    result = run_pytest(
        f"def test_it(sshd):{LEAVE}"
        "    drop(sshd.port).start()\n"
        "    print('port is', sshd.port, file=open('port', 'w'))\n"
        "    raise KeyboardInterrupt\n"
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    port = Path("port").read_text().split()[-1]
    assert f"port {port}" not in iptables("-S").stdout
    assert not machine_runs(SLEEP)


def test_the_next_run_sweeps_up(run_pytest):
    """A run that was ended by force, as those that hang are, leaves things until the next one."""
    run_pytest(
        f"def test_it(sshd):{LEAVE}"
        "    drop(sshd.port).start()\n"
        "    print(sshd.pid, sshd.folder, sshd.port, file=open('left', 'w'))\n"
        "    os._exit(1)\n"
    )
    pid, folder, port = Path("left").read_text().split()
    servers.sweep()
    network.remove_rules(dead_owners=True)
    until(lambda: not machine_runs(SLEEP), "what it started is gone")
    until(lambda: not machine_runs(folder), f"its server {pid} is gone")
    assert not Path(folder).exists()
    assert f"port {port}" not in iptables("-S").stdout


def machine_runs(text: str) -> bool:
    """Whether some process of this machine has a text in its command line."""
    return any(text in command_line(pid) for pid in running())
