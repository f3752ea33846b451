"""``holdfast serve``: the gateway on a port of this machine."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import secrets
import socket
from typing import Any, Final

import click

from ._printable import printable

PORT: Final = 8377
"""Where it listens by default, or the next free port above."""

_PORTS: Final = 20
_DAY: Final = 86400.0
_MIB: Final = 1024 * 1024
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]{16,256}")


@click.command("serve")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address or name to listen at."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"The port; 0 for any free one.  [default: {PORT}, or the next free one]",
)
@click.option(
    "--token",
    envvar="HOLDFAST_TOKEN",
    show_envvar=True,
    help="The token to ask for.  [default: a random one, printed with the URL]",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where sessions and their events are kept.  [default: in the user's data directory]",
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="DAYS",
    help="How long events are kept.",
)
@click.option(
    "--keep-session-mib",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="How much the events of one session may take.",
)
@click.option(
    "--keep-mib",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    metavar="MIB",
    help="How much the events of all sessions may take.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option("--certfile", type=click.Path(exists=True, dir_okay=False), help="A TLS certificate.")
@click.option("--keyfile", type=click.Path(exists=True, dir_okay=False), help="Its private key.")
@click.option(
    "--allow-remote-plaintext",
    is_flag=True,
    help="Listen beyond this machine without TLS: everybody on the way can read the token.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="URL",
    help="Another origin of this gateway, such as that of a proxy in front: https://name.",
)
@click.option(
    "--allow-target",
    multiple=True,
    metavar="PATTERN",
    help="Allow only such targets; * stands for anything but options.",
)
@click.option(
    "--allow-command",
    multiple=True,
    metavar="PATTERN",
    help="Allow only such commands, each as one line; * stands for anything.",
)
@click.option(
    "--max-sessions", type=click.IntRange(1), default=1000, show_default=True, metavar="N"
)
@click.option(
    "--max-clients",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Clients that may stream one session.",
)
def command(
    host: str,
    port: int | None,
    token: str | None,
    data: str | None,
    keep_days: float,
    keep_session_mib: int,
    keep_mib: int,
    opens: bool,
    certfile: str | None,
    keyfile: str | None,
    allow_remote_plaintext: bool,
    allow_origin: tuple[str, ...],
    allow_target: tuple[str, ...],
    allow_command: tuple[str, ...],
    max_sessions: int,
    max_clients: int,
) -> int:
    """Serve sessions to browsers and programs.

    There is a page, REST and WebSockets. Whoever has the token may start any command that
    --allow-target and --allow-command allow, as the user who runs this. SIGINT and SIGTERM stop it,
    and every worker with it.
    """
    # Workers inherit the environment, and the token is not for them.
    os.environ.pop("HOLDFAST_TOKEN", None)
    if token is not None and not _TOKEN.fullmatch(token):
        raise click.UsageError(
            "a token has 16 to 256 characters of A-Z a-z 0-9 . _ ~ - (for one: python -c 'import "
            "secrets; print(secrets.token_urlsafe(32))')"
        )
    if (certfile is None) != (keyfile is None):
        raise click.UsageError("--certfile and --keyfile belong together")
    for origin in allow_origin:
        if not re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", origin):
            raise click.UsageError(
                f"not an origin: {origin!r}; write scheme://host or scheme://host:port, lower case"
            )
    family, resolved = _resolve(host)
    address = ipaddress.ip_address(resolved[0].partition("%")[0])
    if not address.is_loopback and certfile is None and not allow_remote_plaintext:
        raise click.UsageError(
            f"{host} can be reached from other machines: give --certfile and --keyfile, or listen "
            f"at 127.0.0.1 behind a tunnel (ssh -L), or accept with --allow-remote-plaintext that "
            f"everybody on the way can read the token"
        )
    with _listen(family, resolved, port) as sock:
        import platformdirs

        from ._hosting import Gateway, Settings
        from ._policy import Policy
        from ._server import serve
        from ._sqlite import SQLiteStore
        from ._sqlite_tidy import Retention

        settings = Settings(
            token=token or secrets.token_urlsafe(32),
            port=sock.getsockname()[1],
            hosts=_names(host, address),
            tls=certfile is not None,
            origins=allow_origin,
            policy=Policy(allow_target, allow_command),
            max_sessions=max_sessions,
            max_clients=max_clients,
        )
        _log_to_stderr()
        store = SQLiteStore(
            data or platformdirs.user_data_path("holdfast") / "gateway",
            retention=Retention(keep_days * _DAY, keep_session_mib * _MIB, keep_mib * _MIB),
        )
        return serve(
            Gateway(settings, store),
            sock,
            certfile,
            keyfile,
            opens=opens,
            prints_token=token is None,
        )


class _Unavailable(click.ClickException):
    """It cannot serve there; ``EX_UNAVAILABLE`` of sysexits.h."""

    exit_code = 69


def _resolve(host: str) -> tuple[int, tuple[Any, ...]]:
    """The address family and the address of a host."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise _Unavailable(
            f"{host!r} is no address of this machine: {error.strerror}; try --host 127.0.0.1"
        ) from error
    return family, address


def _listen(family: int, address: tuple[Any, ...], port: int | None) -> socket.socket:
    """A socket that listens there, at this port or at one that is free."""
    ports = [port] if port is not None else [*range(PORT, PORT + _PORTS), 0]
    for each in ports:
        try:
            where = (address[0], each, *address[2:])
            return socket.create_server(where, family=family, backlog=2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and each != ports[-1]:
                continue
            raise _Unavailable(
                f"cannot listen at {address[0]} port {each}: {os.strerror(error.errno or 0)}; "
                f"choose another --port"
            ) from error
    raise AssertionError("there is at least one port to try")


def _names(host: str, where: ipaddress.IPv4Address | ipaddress.IPv6Address) -> tuple[str, ...]:
    """How this gateway may be called, the best name first."""
    local = ("127.0.0.1", "localhost", "[::1]")
    if where.is_unspecified:  # every address: the one that is called is checked by itself
        return local
    address = f"[{where}]" if where.version == 6 else str(where)
    name = address if host == str(where) else host.lower()
    others = local if where.is_loopback else ()
    return tuple(dict.fromkeys((name, address, *others)))


class _Escaped(logging.Formatter):
    """Logs quote what workers and callers wrote: a terminal must not obey it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("holdfast").setLevel(logging.INFO)
