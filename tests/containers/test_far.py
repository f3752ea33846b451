"""Engines that are not on this machine's socket: by TLS, and by SSH."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.containers.engine import BUSYBOX, Dockerd
from tests.containers.kit import transport_to
from tests.ssh.network import unused_port
from tests.ssh.sshd import Sshd

from holdfast import Command, Exit, Transport, TransportUnavailable

pytestmark = pytest.mark.anyio


async def works(transport: Transport) -> None:
    """Much goes both ways, the end of the input arrives, and the exit is told."""
    data = b"x" * 3_000_000
    got = 0
    with anyio.fail_after(60):
        async with transport.open(Command(("sh", "-c", "cat; echo err >&2; exit 3"))) as channel:

            async def read() -> None:
                nonlocal got
                while piece := await channel.receive():
                    got += len(piece)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await channel.send(data)
                await channel.send_eof()
            assert await channel.receive_stderr() == b"err\n"
            assert await channel.wait() == Exit(code=3)
        await transport.aclose()
    assert got == len(data)


# -- TLS -----------------------------------------------------------------------------------------


def certificates(folder: Path) -> None:
    """An authority, and what it has signed for the server and for us."""
    folder.mkdir()
    today = dt.datetime.now(dt.UTC)

    def make(name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> tuple:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        who, signer = issuer or (subject, key)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(who)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - dt.timedelta(days=1))
            .not_valid_after(today + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
            .add_extension(x509.ExtendedKeyUsage(usage), False)
        )
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        built = built.add_extension(x509.SubjectAlternativeName([address]), False)
        (folder / f"{name}.pem").write_bytes(
            built.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        (folder / f"{name}-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return subject, key

    authority = make("ca", None)
    make("server", authority)
    make("cert", authority)
    (folder / "cert-key.pem").rename(folder / "key.pem")


async def test_an_engine_by_tls(
    make_dockerd: Callable[..., Dockerd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With certificates it works, half close included; without, it is said what is missing."""
    folder, port = tmp_path / "certs", unused_port()
    certificates(folder)
    make_dockerd(
        f"--host=tcp://127.0.0.1:{port}",
        "--tlsverify",
        f"--tlscacert={folder}/ca.pem",
        f"--tlscert={folder}/server.pem",
        f"--tlskey={folder}/server-key.pem",
    )
    target = f"docker://{BUSYBOX}?host=tcp://127.0.0.1:{port}"
    plain = transport_to(target)
    with pytest.raises(TransportUnavailable, match="TLS"):
        async with plain.open(Command(("true",))):
            pass
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
    await works(transport_to(target))
    other = tmp_path / "other"
    certificates(other)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(other))
    with pytest.raises(TransportUnavailable, match="did not prove who it is"):
        async with transport_to(target).open(Command(("true",))):
            pass


# -- SSH -----------------------------------------------------------------------------------------


async def test_an_engine_by_ssh(dockerd: Dockerd, container: str) -> None:
    """Docker's own client dials on the far side; both kinds of workers run through it."""
    if shutil.which("docker") is None:
        pytest.fail("docker.io brings the docker command")
    with Sshd({"SetEnv": f"DOCKER_HOST={dockerd.host}"}) as sshd:
        host = quote(sshd.target(), safe="")
        await works(transport_to(f"docker://{BUSYBOX}?host={host}"))
        await works(transport_to(f"docker+exec://{container}?host={host}"))


async def test_a_far_machine_that_cannot_be_reached() -> None:
    """What the SSH transport says of it is what is said."""
    host = quote(f"ssh://127.0.0.1:{unused_port()}?config=none", safe="")
    with anyio.fail_after(30), pytest.raises(TransportUnavailable, match="refused"):
        async with transport_to(f"docker://{BUSYBOX}?host={host}").open(Command(("true",))):
            pass
