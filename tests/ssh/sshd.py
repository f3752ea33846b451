"""A private OpenSSH server: its own port, keys and log, and its processes at a test's mercy."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import quote

from .machine import (
    Process,
    Table,
    command,
    command_line,
    descendants,
    environment,
    missing,
    owner,
    owner_lives,
    running,
    send_signal,
    stat,
    until,
)
from .network import HOST, PORTS, listener_on

START_WITHIN = 10.0
"""Seconds until a server listens; it takes some 20 ms."""
STOP_WITHIN = 3.0
"""Seconds for SIGTERM to do its work, before SIGKILL does."""

PREFIX = "holdfast-sshd-"
MARK = "HOLDFAST_SSHD"
"""An environment variable, set for all that runs here: who has lost its parents is known by it."""

Setting = str | int | bool | Sequence[str]

numbers = count(1)


class Sshd:
    """An sshd that listens on a loopback port and lets this user in.

    Attributes:
        host: The address it is bound to.
        port: Its port.
        user: The user it lets in: who runs the tests.
        folder: All its files.
        home: The HOME of what runs in it, empty: a developer's own shell start files take time and
            leave processes behind.
        authorized_keys: The keys that it accepts, a file that it reads at each login.
        identity: An ed25519 key that it accepts.
        known_hosts: A file with its keys.
        config: An ssh_config to reach it, as host ``sshd``: ``ssh -F CONFIG sshd``.
        log: What it says.
    """

    passphrase = "geheim"

    def __init__(self, settings: Mapping[str, Setting] | None = None) -> None:
        """Make the files; :meth:`start` starts it.

        Args:
            settings: What its configuration shall say instead of, or beside, the defaults here. A
                list gives a line for each of its elements.
        """
        # By its whole path: it starts itself anew for each connection.
        self._sshd = command("sshd", "openssh-server")
        self._settings = dict(settings or {})
        self.name = f"{owner()}-{next(numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{self.name}-"))
        self.host = HOST
        self.port = 0
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.identity = self.folder / "id_ed25519"
        self.home = self.folder / "home"
        self.home.mkdir()
        self.authorized_keys = self.folder / "authorized_keys"
        self.known_hosts = self.folder / "known_hosts"
        self.config = self.folder / "ssh_config"
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._orphans: dict[int, int] = {}  # sessions without a listener: pid, when started
        self._frozen: dict[int, int] = {}
        self._make_keys()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _make_keys(self) -> None:
        """Write the keys that every test needs."""
        kinds = {
            self.folder / "host_ed25519": ["-t", "ed25519", "-N", ""],
            self.folder / "host_ecdsa": ["-t", "ecdsa", "-N", ""],
            self.folder / "host_rsa": ["-t", "rsa", "-b", "2048", "-N", ""],
            self.identity: ["-t", "ed25519", "-N", ""],
        }
        self._host_keys = [path for path in kinds if path.name.startswith("host_")]
        for path, kind in kinds.items():
            _make_key(path, kind)
        self.authorized_keys.write_text(_public(self.identity))

    @cached_property
    def encrypted_identity(self) -> Path:
        """An RSA key that it accepts, locked with :attr:`passphrase`; made when first asked for."""
        path = self.folder / "id_rsa"
        # One round of the key derivation: the lock is to be there, not to be strong.
        _make_key(path, ["-t", "rsa", "-b", "2048", "-a", "1", "-N", self.passphrase])
        with self.authorized_keys.open("a") as file:
            file.write(_public(path))
        return path

    # Its life

    @property
    def pid(self) -> int | None:
        """The listener's process; None if it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Listen: on a free port the first time, later on the same one again."""
        assert self.pid is None, "it runs"
        if os.geteuid() == 0:
            # Debian's service makes it, as its home of the unprivileged part; nobody else does.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        if self.port:
            return self._listen()
        for _ in range(50):
            with listener_on() as free:
                self.port = free.getsockname()[1]
            try:
                self._listen()
            except OSError:  # somebody took the port since it was tried
                continue
            self.trust(self.port)
            self.config.write_text(self._ssh_config())
            return None
        raise AssertionError(f"no free port among {PORTS}")

    def _listen(self) -> None:
        """Run the listener.

        Raises:
            OSError: The port is taken.
        """
        config = self.folder / "sshd_config"
        config.write_text(self._sshd_config())
        self.log.touch()
        said_before = self.log.stat().st_size
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # What surrounds the tests, an agent for one, is not for what runs in the server.
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,  # a Ctrl-C is for pytest, which stops it in its time
            )
        process = self._process

        def said() -> str:
            return self.log.read_bytes()[said_before:].decode(errors="replace")

        until(
            lambda: (
                f"listening on {HOST} port {self.port}." in said() or process.poll() is not None
            ),
            f"sshd listens; {self.tail()}",
            START_WITHIN,
        )
        if process.poll() is not None:
            if "Address already in use" in said():
                raise OSError(f"port {self.port} is taken")
            raise AssertionError(f"sshd did not start:\n{said()}")

    def stop(self) -> None:
        """End it and all that runs in it, and remove its files."""
        self.thaw()
        self._end_listener(signal.SIGTERM)
        send_signal(self.sessions(), signal.SIGTERM)
        try:
            until(lambda: not self.sessions(), "the sessions end", STOP_WITHIN)
        except TimeoutError:
            self.kill_sessions()
        self.kill_commands()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_listener(self) -> None:
        """Let new connections be refused; those that exist live on, and start() listens again."""
        self._end_listener(signal.SIGKILL)

    def _end_listener(self, number: signal.Signals) -> None:
        listener = self.pid
        if self._process is None or listener is None:
            return
        # Once it is gone nothing shows whose the sessions are; held still, it starts no others.
        self._process.send_signal(signal.SIGSTOP)
        until(lambda: all_stopped([listener]), "the listener holds still")
        table = running()
        self._orphans |= {pid: table[pid].started for pid in self._sessions(table)}
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_WITHIN)

    # Its processes

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections: one for root, more for other users."""
        return sorted(self._sessions(running()))

    def _sessions(self, table: Table) -> set[int]:
        found = self._still(self._orphans, table)
        level = found | ({self.pid} if self.pid else set())
        while level:
            # `sshd`, since 9.8 `sshd-session` and `sshd-auth`; a shell they start has its own name.
            level = {
                pid
                for pid, each in table.items()
                if each.ppid in level and each.name.startswith("sshd")
            } - found
            found |= level
        return found

    def processes(self) -> list[Process]:
        """All that runs in the server now, but the listener: its sessions and what they started.

        Found by parents, and by the environment when the parents are gone.
        """
        return self._processes(running())

    def commands(self) -> list[Process]:
        """What sessions started, now or in the past, and still runs."""
        table = running()
        sessions = self._sessions(table)
        return [each for each in self._processes(table) if each.pid not in sessions]

    def _processes(self, table: Table) -> list[Process]:
        mark = f"{MARK}={self.name}".encode()
        found = {pid for pid in table if mark in environment(pid)} | self._sessions(table)
        found |= descendants(found | ({self.pid} if self.pid else set()), table)
        named = [Process(pid, command_line(pid)) for pid in sorted(found)]
        return [each for each in named if each.command]  # else it has ended meanwhile

    @staticmethod
    def _still(known: Mapping[int, int], table: Table) -> set[int]:
        """Those of some processes, with their times of start, that still run."""
        return {
            pid for pid, started in known.items() if pid in table and table[pid].started == started
        }

    def kill_sessions(self) -> list[int]:
        """End the connections that exist, with SIGKILL; what they started lives on."""
        killed = self.freeze()  # held still, they start nothing that would be missed
        send_signal(killed, signal.SIGKILL)
        until(lambda: not running().keys() & {*killed}, f"the sessions {killed} are gone")
        return killed

    def kill_commands(self) -> list[Process]:
        """End what sessions started."""
        killed: dict[int, Process] = {}

        def none_left() -> bool:  # again and again: they may start others meanwhile
            found = self.commands()
            killed.update({each.pid: each for each in found})
            send_signal([each.pid for each in found], signal.SIGKILL)
            return not found

        until(none_left, "what sessions started is gone")
        return list(killed.values())

    def freeze(self) -> list[int]:
        """Hold the connections that exist still: the network is there, and nobody answers."""
        held: set[int] = set()
        while new := self._sessions(running()) - held:
            send_signal(new, signal.SIGSTOP)
            until(lambda: all_stopped(new), f"the sessions {new} hold still")
            table = running()
            self._frozen |= {pid: table[pid].started for pid in new & table.keys()}
            held |= new
        return sorted(held & running().keys())

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""
        send_signal(self._still(self._frozen, running()), signal.SIGCONT)
        self._frozen.clear()

    # How to reach it, and what it says

    def target(self, *, port: int | None = None, **options: object) -> str:
        """A target for holdfast that reaches it.

        Args:
            port: Another port than its own: a relay's.
            options: Of the transport; None leaves one out that stands there by default.
        """
        given: dict[str, object] = {
            "identity": self.identity,
            "known_hosts": self.known_hosts,
            "config": "none",
            **options,
        }
        query = "&".join(
            f"{name}={quote(str(value))}" for name, value in given.items() if value is not None
        )
        return f"ssh://{quote(self.user)}@{self.host}:{port or self.port}?{query}"

    def ssh(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """A command line of the system's ssh that runs a command here."""
        ssh = command("ssh", "openssh-client")
        return [ssh, "-F", str(self.config), *options, "sshd", "--", *arguments]

    def trust(self, port: int) -> None:
        """Write its keys to known_hosts for another port too, a relay's."""
        known = self.known_hosts.read_text() if self.known_hosts.exists() else ""
        lines = [f"[{self.host}]:{port} {_public(path)}" for path in self._host_keys]
        self.known_hosts.write_text(known + "".join(line for line in lines if line not in known))

    def tail(self, lines: int = 100) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(no log)"
        text = self.log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # Its configuration

    def _sshd_config(self) -> str:
        defaults: dict[str, Setting] = {
            "ListenAddress": HOST,
            "Port": self.port,
            "HostKey": [str(path) for path in self._host_keys],
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "UsePAM": False,
            "StrictModes": False,  # /tmp is everybody's
            "PermitRootLogin": True,
            "PasswordAuthentication": False,
            "KbdInteractiveAuthentication": False,
            "PermitUserRC": False,
            "PrintMotd": False,
            "PrintLastLog": False,
            "UseDNS": False,
            "LogLevel": "VERBOSE",
            # The default begins to refuse at the tenth who has not logged in yet, by chance.
            "MaxStartups": "1000",
            "Subsystem": "sftp internal-sftp",
        }
        if openssh_version() >= (9, 8):
            # Else it would turn away its only client's address, for the faults that tests make.
            defaults["PerSourcePenalties"] = False
        settings = {name.lower(): (name, value) for name, value in defaults.items()}
        settings |= {name.lower(): (name, value) for name, value in self._settings.items()}
        mark = f'{MARK}={self.name} "HOME={self.home}"'
        if "setenv" in settings:  # sshd takes the first such line, and the first value
            mark = f"{settings.pop('setenv')[1]} {mark}"
        settings["setenv"] = ("SetEnv", mark)
        return "".join(
            f"{name} {line}\n" for name, value in settings.values() for line in _lines(value)
        )

    def _ssh_config(self) -> str:
        return (
            "Host sshd\n"
            f"  HostName {self.host}\n"
            f"  Port {self.port}\n"
            f"  User {self.user}\n"
            f"  IdentityFile {self.identity}\n"
            "  IdentitiesOnly yes\n"
            "  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n"
            "  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
            "  UpdateHostKeys no\n"
            "  BatchMode yes\n"
            "  ConnectTimeout 10\n"
            "  LogLevel ERROR\n"
        )


def _make_key(path: Path, kind: Sequence[str]) -> None:
    keygen = command("ssh-keygen", "openssh-client")
    subprocess.run(
        [keygen, "-q", "-C", path.name, "-f", str(path), *kind],
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=30,
    )


def openssh_version() -> tuple[int, int]:
    """The version of this machine's OpenSSH."""
    ssh = command("ssh", "openssh-client")
    said = subprocess.run(
        [ssh, "-V"], check=True, capture_output=True, text=True, timeout=10
    ).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    if found is None:
        missing(f"ssh is not OpenSSH's: {said}")
    return int(found[1]), int(found[2])


def sweep() -> None:
    """End servers whose tests were ended by force, as the root conftest.py ends those that hang."""
    table = running()
    for pid in table:
        name = re.search(rf"/{PREFIX}(\d+-\d+)-\d+-\w+/sshd_config", command_line(pid))
        if name and not owner_lives(name[1]):
            send_signal([pid, *descendants([pid], table)], signal.SIGKILL)
    for pid in table:
        for entry in environment(pid):
            name = re.fullmatch(rf"{MARK}=(\d+-\d+)-\d+", entry.decode(errors="replace"))
            if name and not owner_lives(name[1]):
                send_signal([pid], signal.SIGKILL)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        name = re.fullmatch(rf"{PREFIX}(\d+-\d+)-\d+-\w+", folder.name)
        if name and not owner_lives(name[1]):
            shutil.rmtree(folder, ignore_errors=True)


def all_stopped(pids: Iterable[int]) -> bool:
    """Whether each of some processes holds still, or is gone."""
    return all(each is None or each.dead or each.state == "T" for each in map(stat, pids))


def _lines(value: Setting) -> list[str]:
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return [str(value)] if isinstance(value, str | int) else list(value)


def _public(path: Path) -> str:
    return path.with_name(f"{path.name}.pub").read_text()
