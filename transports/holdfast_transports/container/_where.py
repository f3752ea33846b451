"""Where an engine is: what Docker's and Podman's own clients are told, read as they read it."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from holdfast import InvalidTarget, TransportUnavailable


class Kind(msgspec.Struct, frozen=True):
    """A kind of engine, and how its own client finds it.

    Attributes:
        name: As a person says it.
        command: Its command line.
        variable: The environment variable that names the engine.
        sockets: Where it usually listens; ``{run}`` stands for the user's runtime directory.
        dial: What connects its standard streams to the engine.
        start: What to do if nobody listens.
        permit: What to do if this user may not use it.
    """

    name: str
    command: str
    variable: str
    sockets: Sequence[str]
    dial: tuple[str, ...]
    start: str
    permit: str


DOCKER: Final = Kind(
    name="Docker",
    command="docker",
    variable="DOCKER_HOST",
    sockets=("/var/run/docker.sock", "{run}/docker.sock", "{home}/.docker/run/docker.sock"),
    dial=("docker", "system", "dial-stdio"),
    start="start it (systemctl start docker), or name another engine (DOCKER_HOST, ?host=)",
    permit=(
        "add the user to the group that owns it (usermod -aG docker USER, then log in anew), or "
        "name another engine (DOCKER_HOST, ?host=)"
    ),
)
PODMAN: Final = Kind(
    name="Podman",
    command="podman",
    variable="CONTAINER_HOST",
    sockets=("{run}/podman/podman.sock", "/run/podman/podman.sock"),
    dial=("podman", "system", "dial-stdio"),
    start=(
        "start its service (systemctl --user enable --now podman.socket), or name another "
        "(CONTAINER_HOST, ?host=)"
    ),
    permit=(
        "start the user's own (systemctl --user enable --now podman.socket), or name another "
        "(CONTAINER_HOST, ?host=)"
    ),
)


class Endpoint(msgspec.Struct, frozen=True):
    """An engine's address.

    Attributes:
        scheme: ``unix``, ``tcp`` or ``ssh``.
        address: A path, a host, or the whole SSH target.
        port: Of a host.
        certificates: The directory of ``ca.pem``, ``cert.pem`` and ``key.pem``, if TLS is spoken.
        verify: Whether the server must prove who it is.
        text: As errors name it.
    """

    scheme: str
    address: str
    port: int = 0
    certificates: Path | None = None
    verify: bool = True
    text: str = ""

    def tls(self) -> ssl.SSLContext:
        """What TLS is spoken with.

        Raises:
            TransportUnavailable: The certificates cannot be read.
        """
        assert self.certificates is not None
        try:
            authority = self.certificates / "ca.pem"
            context = ssl.create_default_context(cafile=authority if authority.exists() else None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if (own := self.certificates / "cert.pem").exists():
                context.load_cert_chain(own, self.certificates / "key.pem")
        except OSError as error:  # ssl.SSLError is one
            raise TransportUnavailable(
                f"the certificates in {self.certificates} cannot be used: {error}; "
                f"correct DOCKER_CERT_PATH, or the context"
            ) from error
        return context


def find(kind: Kind, host: str | None = None, context: str | None = None) -> Endpoint:
    """The engine that is meant: by an option, by the environment, by a context, or as usual.

    Raises:
        InvalidTarget: What names it cannot be read.
        TransportUnavailable: There is no such context.
    """
    environment = os.environ
    if host is None and context is None:
        host = environment.get(kind.variable) or None
    if host is not None:
        return parse(host, _certificates(environment), verify=True)
    if kind is DOCKER:
        name = context or environment.get("DOCKER_CONTEXT") or _current_context()
        if name and name != "default":
            return _of_context(name)
    elif context is not None:
        raise InvalidTarget(f"{kind.name} has no contexts; say ?host=")
    run = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    paths = [each.format(run=run, home=Path.home()) for each in kind.sockets]
    path = next((each for each in paths if Path(each).exists()), paths[0])
    return Endpoint("unix", path, text=path)


def parse(text: str, certificates: Path | None = None, *, verify: bool = True) -> Endpoint:
    """Read ``unix:///path``, ``tcp://host:port`` or ``ssh://[user@]host[:port]``.

    Raises:
        InvalidTarget: It is none of these.
    """
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise InvalidTarget(f"not an engine's address: {text!r} ({error})") from error
    if url.scheme == "unix" and url.path.startswith("/"):
        return Endpoint("unix", url.path, text=url.path)
    if url.scheme in ("tcp", "http", "https") and url.hostname:
        secure = certificates
        if url.scheme == "https" and secure is None:
            secure = _config_folder()
        usual = 2376 if secure else 2375
        shown = f"{url.hostname}:{port or usual}"
        return Endpoint("tcp", url.hostname, port or usual, secure, verify, shown)
    if url.scheme == "ssh" and url.hostname and url.path in ("", "/"):
        return Endpoint("ssh", text.rstrip("/"), text=text)
    raise InvalidTarget(
        f"not an engine's address: {text!r}; write unix:///path, tcp://host:port or ssh://host"
    )


def _config_folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _certificates(environment: Mapping[str, str]) -> Path | None:
    """Docker's client speaks TLS if this variable is set to anything."""
    if not environment.get("DOCKER_TLS_VERIFY"):
        return None
    return Path(environment.get("DOCKER_CERT_PATH") or _config_folder())


def _current_context() -> str | None:
    try:
        text = (_config_folder() / "config.json").read_text(encoding="utf-8")
        found = json.loads(text).get("currentContext")
    except (OSError, ValueError, AttributeError):  # docker itself works without this file
        return None
    return found if isinstance(found, str) else None


def _of_context(name: str) -> Endpoint:
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = _config_folder() / "contexts"
    try:
        text = (folder / "meta" / key / "meta.json").read_text(encoding="utf-8")
        endpoint = json.loads(text)["Endpoints"]["docker"]
        host, verify = endpoint["Host"], not endpoint.get("SkipTLSVerify")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TransportUnavailable(
            f"there is no usable Docker context {name!r} ({type(error).__name__}: {error}); "
            f"see: docker context ls"
        ) from error
    certificates = folder / "tls" / key / "docker"
    return parse(host, certificates if certificates.is_dir() else None, verify=verify)
