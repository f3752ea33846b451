"""From a host's name to an authenticated connection, each failure in its own words.

All of this blocks, and runs in a thread.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# (pyright brings types of an older paramiko, without its internals; mypy takes it as untyped)

from __future__ import annotations

import getpass
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import paramiko
from paramiko.agent import AgentSSH

from holdfast import TransportUnavailable

from . import _known_hosts
from ._config import Hop, HostKeys, resolve
from ._known_hosts import KnownHosts, Verdict
from ._paramiko import Client, Ringer
from ._wire import Wire

if TYPE_CHECKING:
    from ._settings import Settings

_log = logging.getLogger("holdfast.ssh")

# What we offer, best first. AES-GCM needs no MAC of its own and is the fastest that paramiko has;
# what it still knows beyond these (CBC, 3DES, MD5, SHA-1) is not offered.
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS: Final = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

Keys = Iterator[tuple[str, paramiko.PKey]]


def dial(settings: Settings, ringer: Ringer) -> Client:
    """Connect, see that it is the right host, and log in.

    Raises:
        TransportUnavailable: What went wrong, and what to do next.
        InvalidTarget: The host's name or the like cannot be used.
    """
    hop = resolve(
        settings.host,
        user=settings.user,
        port=settings.port,
        identity=settings.identity,
        config=settings.config,
        known_hosts=settings.known_hosts,
        host_keys=settings.host_keys,
    )
    return _log_in(hop, settings, ringer, settings.password)


def _log_in(hop: Hop, settings: Settings, ringer: Ringer, password: str | None) -> Client:
    under: list[Callable[[], object]] = []
    client: Client | None = None
    try:
        sock = _reach(hop, settings, ringer, under)
        client = Client(Wire(sock), ringer)
        client.under = under
        _shake_hands(client, hop, settings)
        _authenticate(client, hop, settings, password)
    except BaseException:
        if client is not None:
            client.hang_up()
        for close in reversed(under):
            close()
        raise
    return client


# -- the way there -----------------------------------------------------------------------------


def _reach(
    hop: Hop, settings: Settings, ringer: Ringer, under: list[Callable[[], object]]
) -> socket.socket:
    """A connected socket, and in ``under`` what ends with it."""
    if hop.proxy_command is not None:
        return _through_command(hop, under)
    if hop.jumps:
        return _through_hosts(hop, settings, ringer, under)
    sock = _connect(hop, hop.connect_timeout or settings.timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if settings.heartbeat and hasattr(socket, "TCP_USER_TIMEOUT"):
        patience = int(settings.deadline * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
    return sock


def _connect(hop: Hop, timeout: float) -> socket.socket:
    where = f"{hop.host} port {hop.port}"
    try:
        return socket.create_connection((hop.host, hop.port), timeout)
    except socket.gaierror as error:
        text = f"no such host: {hop.host!r} ({error.strerror}); check its name and your network"
    except ConnectionRefusedError:
        text = f"{where} refused the connection; does an SSH server listen there?"
    except TimeoutError:
        text = (
            f"{where} did not answer in {timeout:g} s; is it up, and does a firewall let you "
            f"through? (?timeout= sets how long to wait)"
        )
    except OSError as error:
        text = f"{where} cannot be reached: {error.strerror or error}; check your network"
    raise TransportUnavailable(text)


def _through_command(hop: Hop, under: list[Callable[[], object]]) -> socket.socket:
    assert hop.proxy_command is not None
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {hop.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise TransportUnavailable(
            f"the ProxyCommand of {hop.name} could not be started: {error}"
        ) from error
    finally:
        theirs.close()

    def end() -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started beside itself
        process.wait()

    under.append(end)
    return ours


def _through_hosts(
    hop: Hop, settings: Settings, ringer: Ringer, under: list[Callable[[], object]]
) -> socket.socket:
    """Log in to each host on the way, from the one before."""
    first, *others = hop.jumps
    client = _log_in(first, settings, ringer, None)
    under.append(client.hang_up)
    for jump in others:
        inner: list[Callable[[], object]] = []
        sock = _tunnel(client, jump, settings, inner)
        client = Client(Wire(sock), ringer)
        under.append(client.hang_up)
        client.under = inner
        _shake_hands(client, jump, settings)
        _authenticate(client, jump, settings, None)
    for each in hop.jumps:
        _log.debug("reached %s by way of %s", hop.name, each.name)
    client.watch(settings.heartbeat, settings.deadline, lambda: None)
    return _tunnel(client, hop, settings, under)


def _tunnel(
    client: Client, hop: Hop, settings: Settings, under: list[Callable[[], object]]
) -> socket.socket:
    """A socket that leads through a connection to the next host.

    Two threads carry its bytes, since only a real socket can be written without waiting.
    """
    try:
        chan = client.open_channel(
            "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=settings.timeout
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise TransportUnavailable(
            f"the jump host could not connect to {hop.host} port {hop.port}: {error}; "
            f"can it reach it, and does its AllowTcpForwarding permit that?"
        ) from error
    ours, theirs = socket.socketpair()

    def up() -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            while data := theirs.recv(65536):
                chan.sendall(data)
        chan.close()

    def down() -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            while data := chan.recv(65536):
                theirs.sendall(data)
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        theirs.close()

    for carry in (up, down):
        threading.Thread(target=carry, name="holdfast ssh: jump", daemon=True).start()
    under.append(chan.close)
    return ours


# -- is it the right one? ----------------------------------------------------------------------


def _shake_hands(client: Client, hop: Hop, settings: Settings) -> None:
    known = KnownHosts(hop.known_hosts)
    options = client.get_security_options()
    options.ciphers = _allowed(CIPHERS, hop.ciphers, "Ciphers", hop)
    options.digests = _allowed(MACS, hop.macs, "MACs", hop)
    options.kex = _allowed(options.kex, hop.kex, "KexAlgorithms", hop)
    types = _allowed(options.key_types, hop.host_key_algorithms, "HostKeyAlgorithms", hop)
    # As OpenSSH does: ask for a key of a kind that we know of this host.
    first = [kind for kind in known.key_types(hop.key_name, hop.key_port) if kind in types]
    options.key_types = (*first, *(kind for kind in types if kind not in first))
    client.banner_timeout = client.handshake_timeout = settings.timeout
    where = f"{hop.host} port {hop.port}"
    try:
        client.start_client(timeout=settings.timeout)
        if not client.initial_kex_done:  # at its timeout it just returns
            raise EOFError(f"no banner and no keys in {settings.timeout:g} s")
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise TransportUnavailable(
            f"the SSH server at {where} offers only what is no longer safe: {error}; update it, "
            f"or use ?client=openssh with a configuration that allows it"
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        native = client.loss.native if client.loss is not None else error
        said = "no SSH server answered" if "banner" in str(native) else "the handshake failed"
        raise TransportUnavailable(
            f"{said} at {where}: {native}; is that an SSH server, and is it overloaded?"
        ) from error
    _check_host_key(client.get_remote_server_key(), known, hop)


def _allowed(
    ours: tuple[str, ...], theirs: tuple[str, ...] | None, setting: str, hop: Hop
) -> tuple[str, ...]:
    """What we offer, as far as the configuration lets us."""
    both = ours if theirs is None else tuple(each for each in ours if each in theirs)
    if not both:
        raise TransportUnavailable(
            f"{setting} in the configuration of {hop.name} allows nothing that this client has "
            f"({', '.join(ours)}); use ?client=openssh"
        )
    return both


def _check_host_key(key: paramiko.PKey, known: KnownHosts, hop: Hop) -> None:
    kind, blob = key.get_name(), key.asbytes()
    verdict = known.check(hop.key_name, hop.key_port, kind, blob)
    if verdict is Verdict.KNOWN:
        return
    if verdict is Verdict.UNKNOWN and hop.host_keys is HostKeys.ACCEPT_NEW:
        print_ = _known_hosts.fingerprint(blob)
        _log.warning("accepted the new %s key %s of %s", kind, print_, hop.name)
        if hop.known_hosts:
            _known_hosts.remember(hop.known_hosts[0], hop.key_name, hop.key_port, kind, blob)
        return
    raise TransportUnavailable(known.refusal(hop.key_name, hop.key_port, kind, blob))


# -- may we in? --------------------------------------------------------------------------------


class _Agent(AgentSSH):
    """The agent at a socket of our choice; paramiko's own asks the environment."""

    def __init__(self, path: str) -> None:
        super().__init__()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(5)
        try:
            sock.connect(path)
            self._connect(sock)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        self._close()


def _authenticate(client: Client, hop: Hop, settings: Settings, password: str | None) -> None:
    client.auth_timeout = settings.timeout
    tried: list[str] = []
    accepted: list[str] = []
    try:
        try:
            client.auth_none(hop.user)
        except paramiko.BadAuthenticationType as error:
            accepted = list(error.allowed_types)
        if "publickey" in accepted and not client.is_authenticated():
            accepted = _try_keys(client, hop, settings, tried, accepted)
        if password is not None and not client.is_authenticated():
            tried.append("the password")
            with suppress(paramiko.BadAuthenticationType):
                client.auth_password(hop.user, password)
    except paramiko.AuthenticationException:
        pass  # said below
    except (paramiko.SSHException, OSError, EOFError) as error:
        native = client.loss.native if client.loss is not None else error
        raise TransportUnavailable(
            f"{hop.host} ended the login of {hop.user} ({native}), after: "
            f"{'; '.join(tried) or 'nothing'}. If these were too many keys, name one: ?identity="
        ) from error
    if not client.is_authenticated():
        ways = ", ".join(accepted) or "nothing that it names"
        raise TransportUnavailable(
            f"{hop.host} did not let {hop.user} in. It accepts {ways}; tried: "
            f"{'; '.join(tried) or 'no key, for there is none'}. Add a key to the agent (ssh-add), "
            f"or name one (?identity=PATH); ssh -v -p {hop.port} {hop.user}@{hop.host} shows more"
        )


def _try_keys(
    client: Client, hop: Hop, settings: Settings, tried: list[str], accepted: list[str]
) -> list[str]:
    """Offer one key after the other; gives what the server accepts after that."""
    for name, key in _keys(hop, settings, tried):
        tried.append(name)
        try:
            left = client.auth_publickey(hop.user, key)
        except paramiko.BadAuthenticationType as error:
            return list(error.allowed_types)
        except paramiko.AuthenticationException:
            continue
        if client.is_authenticated():
            return accepted
        tried[-1] += " (accepted, and more is asked for)"
        return list(left)
    return accepted


def _keys(hop: Hop, settings: Settings, notes: list[str]) -> Keys:
    """The keys to try: those of the agent first, since they ask nobody for a passphrase."""
    files = {path: _public_half(path) for path in hop.identities}
    wanted = {blob for blob in files.values() if blob is not None}
    only = hop.identities_only or bool(settings.identity)
    offered = set()
    agent: _Agent | None = None
    if hop.agent is not None:
        try:
            agent = _Agent(hop.agent)
        except (OSError, paramiko.SSHException) as error:
            _log.debug("no agent at %s: %s", hop.agent, error)
    try:
        if agent is not None:
            keys = sorted(agent.get_keys(), key=lambda key: key.asbytes() not in wanted)
            for key in keys:
                if key.asbytes() in wanted or not only:
                    offered.add(key.asbytes())
                    yield f"a key of the agent ({key.get_name()})", key
        for path, blob in files.items():
            if blob not in offered and (path.exists() or path in settings.identity):
                key = _load(path, settings, notes)
                if key is not None and key.asbytes() not in offered:
                    yield str(path), key
    finally:
        if agent is not None:
            agent.close()


def _public_half(path: Path) -> bytes | None:
    """The key of ``PATH.pub``, which tells which of the agent's keys is meant."""
    try:
        text = path.with_name(path.name + ".pub").read_text(encoding="utf-8", errors="replace")
        blob: bytes = paramiko.pkey.PublicBlob.from_string(text).key_blob
    except (OSError, ValueError):
        return None
    return blob


def _load(path: Path, settings: Settings, notes: list[str]) -> paramiko.PKey | None:
    """Read a private key; if that fails, why not is added to ``notes``."""
    try:
        try:
            return paramiko.PKey.from_path(path)
        except TypeError:  # it is encrypted
            passphrase = settings.passphrase
            if passphrase is None and sys.stdin is not None and sys.stdin.isatty():
                passphrase = getpass.getpass(f"Passphrase of {path}: ")
            if passphrase is not None:
                return paramiko.PKey.from_path(path, passphrase.encode())
        notes.append(
            f"{path} (not read: it has a passphrase, and there is no terminal to ask on; "
            f"add it to the agent with: ssh-add {shlex.quote(os.fspath(path))})"
        )
    except FileNotFoundError:
        notes.append(f"{path} (no such file)")
    except Exception as error:  # noqa: BLE001 - whatever a key file does to its parser
        notes.append(f"{path} (not read: {str(error) or type(error).__name__})")
    return None
