"""What a container target says, where its engine is, and whose a container is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import InvalidTarget, Registry, Target, TransportUnavailable
from holdfast_transports.container._created import description, placed
from holdfast_transports.container._owner import LABEL, Owner, this_process
from holdfast_transports.container._settings import EXEC_OPTIONS, OPTIONS, Settings, from_target
from holdfast_transports.container._where import DOCKER, PODMAN, find, parse

from holdfast import Command  # isort: skip


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that says nothing of engines."""
    for name in [*os.environ]:
        if name.startswith(("DOCKER_", "CONTAINER_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def settings(text: str) -> Settings:
    target = Target.parse(text)
    return from_target(target, EXEC_OPTIONS if "+exec" in target.scheme else OPTIONS)


# -- targets and options -------------------------------------------------------------------------


def test_every_option_is_read() -> None:
    """All options together, as one container that is asked for."""
    made = description(
        settings(
            "docker://registry.example:5000/a/b:1?user=1000:1000&mount=/a:/b,cache:/c:ro"
            "&network=bridge&memory=64m&cpus=1.5&pids=20&read_only=yes&labels=a=b,c=d"
        ),
        "1234",
    )
    assert made["Image"] == "registry.example:5000/a/b:1"
    assert made["User"] == "1000:1000"
    assert made["Labels"] == {
        "a": "b",
        "c": "d",
        "holdfast.session": "1234",
        LABEL: str(this_process()),
    }
    host = made["HostConfig"]
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": False},
        {"Type": "volume", "Source": "cache", "Target": "/c", "ReadOnly": True},
    ]
    assert (host["NetworkMode"], host["Memory"], host["MemorySwap"]) == ("bridge", 2**26, 2**26)
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 20)
    assert host["ReadonlyRootfs"] is True


def test_a_container_is_hardened_unless_told_otherwise() -> None:
    """No network, no capabilities, no new privileges, a limit of processes; each can be had."""
    host = description(settings("docker://a"), "1")["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PidsLimit"] == 512
    text = "docker://a?network=host&capabilities=default&new_privileges=yes&pids=0"
    host = description(settings(text), "1")["HostConfig"]
    assert (host["NetworkMode"], host["CapDrop"], host["SecurityOpt"]) == ("host", [], [])
    assert "PidsLimit" not in host


@pytest.mark.parametrize(
    "target",
    [
        "docker://",
        "docker://-v",
        "docker://a b",
        "docker://a?memory=1x",
        "docker://a?memory=1k",
        "docker://a?cpus=0",
        "docker://a?pids=-1",
        "docker://a?mount=/a",
        "docker://a?mount=a/b:/c",
        "docker://a?mount=/a:b",
        "docker://a?mount=/a:/b:rw:z",
        "docker://a?network=--privileged",
        "docker://a?user=../x",
        "docker://a?name=/x",
        "docker://a?workdir=x",
        "docker://a?labels=holdfast.owner=x",
        "docker://a?env=NOT_SET_ANYWHERE",
        "docker://a?env==x",
        "docker://a?pull=always",
        "docker://a?read_only=maybe",
        "docker://a?heartbeat=-1",
        "docker://a?deadline=0",
        "docker://a?privileged=yes",
        "docker+exec://",
        "docker+exec://a/b",
        "docker+exec://../../containers/json",
        "docker+exec://a?memory=64m",
    ],
)
def test_what_is_no_target_is_refused(target: str) -> None:
    """Refused at the edge, before any engine hears of it."""
    with pytest.raises(InvalidTarget):
        Registry().transport(target)


def test_each_scheme_has_a_transport() -> None:
    """Four schemes by one module, and each offers an example that it takes."""
    registry = Registry()
    for scheme in ("docker", "docker+exec", "podman", "podman+exec"):
        spec = registry.spec(scheme)
        assert spec.scheme == scheme
        registry.transport(spec.example)


def test_variables_and_directories_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable without a value takes ours; a command's own words come first."""
    monkeypatch.setenv("HF_SECRET", "s3cret")
    said = settings("docker://a?env=HF_SECRET,LANG=C&workdir=/work")
    found = placed(Command(("x",), env={"LANG": "de"}), said)
    assert found.env == {"HF_SECRET": "s3cret", "LANG": "de"}
    assert found.cwd == "/work"
    assert placed(Command(("x",), cwd="sub"), said).cwd == "/work/sub"
    assert placed(Command(("x",), cwd="/else"), said).cwd == "/else"


def test_secrets_are_nowhere_that_inspect_shows() -> None:
    """What the engine is told of the container holds no variable of the worker's."""
    text = json.dumps(description(settings("docker://a?env=TOKEN=s3cret"), "1"))
    assert "s3cret" not in text


# -- where the engine is -------------------------------------------------------------------------


def test_the_usual_sockets(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rootless socket is found where there is one; else the usual place is named."""
    run = environment / "run"
    (run / "podman").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    if not Path("/var/run/docker.sock").exists():
        assert find(DOCKER).address == "/var/run/docker.sock"
        (run / "docker.sock").touch()
        assert find(DOCKER).address == str(run / "docker.sock")
    (run / "podman" / "podman.sock").touch()
    assert find(PODMAN).address == str(run / "podman" / "podman.sock")


def test_the_environment_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_HOST for Docker, CONTAINER_HOST for Podman, ?host= before both."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://far:2375")
    monkeypatch.setenv("CONTAINER_HOST", "unix:///podman")
    assert (find(DOCKER).scheme, find(DOCKER).address, find(DOCKER).port) == ("tcp", "far", 2375)
    assert find(PODMAN).address == "/podman"
    assert find(DOCKER, "unix:///other").address == "/other"
    assert find(DOCKER, "ssh://me@far:22").address == "ssh://me@far:22"


def test_tls_as_docker_reads_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_TLS_VERIFY turns TLS on, and DOCKER_CERT_PATH says with what."""
    assert parse("tcp://far").port == 2375
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    found = find(DOCKER, "tcp://far")
    assert (found.port, found.certificates) == (2376, environment / ".docker")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/certs")
    assert find(DOCKER, "tcp://far").certificates == Path("/certs")


def test_contexts(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current context counts unless another is named; DOCKER_HOST goes before it."""
    folder = environment / ".docker"
    for name, host in (("one", "unix:///one"), ("two", "tcp://two:1")):
        meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        meta.mkdir(parents=True)
        text = json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}})
        (meta / "meta.json").write_text(text)
    (folder / "config.json").write_text(json.dumps({"currentContext": "one"}))
    assert find(DOCKER).address == "/one"
    assert find(DOCKER, context="two").address == "two"
    monkeypatch.setenv("DOCKER_CONTEXT", "two")
    assert find(DOCKER).address == "two"
    monkeypatch.setenv("DOCKER_HOST", "unix:///host")
    assert find(DOCKER).address == "/host"
    with pytest.raises(TransportUnavailable, match="no usable Docker context 'three'"):
        find(DOCKER, context="three")


@pytest.mark.parametrize(
    "text", ["", "unix://relative", "tcp://", "npipe:////./pipe/x", "tcp://a:b"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """An engine's address that cannot be read is said to be none."""
    with pytest.raises(InvalidTarget, match="not an engine's address"):
        parse(text)


# -- whose a container is ------------------------------------------------------------------------


def test_an_owner_is_told_from_every_other() -> None:
    """We live; a process that ended is dead; one elsewhere is not known to be."""
    me = this_process()
    assert Owner.parse(str(me)) == me
    assert not me.dead
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert Owner(me.host, me.space, me.boot, done.pid, me.started).dead
    assert Owner(me.host, me.space, me.boot, me.pid, "1").dead, "a reused id is not the owner"
    assert Owner(me.host, me.space, "another boot", me.pid, me.started).dead
    assert not Owner("elsewhere", me.space, me.boot, done.pid, "1").dead
    assert not Owner(me.host, "another space", me.boot, done.pid, "1").dead


@pytest.mark.parametrize("text", ["", "a", "a/b/c/d/e", "a/b/c/1/e/f"])
def test_a_label_of_somebody_else_is_no_owner(text: str) -> None:
    """What we did not write says nothing."""
    assert Owner.parse(text) is None
