"""A session's life, on real processes: start, stop, restart, forget, and leaving the manager."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import asynccontextmanager

import anyio
import pytest

from holdfast import (
    Command,
    Delivery,
    Exit,
    Limits,
    Reason,
    SessionBusy,
    SessionClosed,
    SessionManager,
    State,
    StatusChanged,
    Transport,
    TransportUnavailable,
    WorkerLost,
    WorkerNotStarted,
)
from holdfast_transports.local import LocalTransport

from .workers.harness import (
    QUICK,
    WORKER,
    alive,
    answer_to,
    answers,
    ask,
    at_most,
    check,
    deadline,
    end_of,
    is_status,
    journal,
    pid_of,
    request,
    running,
    statuses,
    stuffed,
    until,
)

pytestmark = pytest.mark.anyio


class SlowTransport(Transport):
    """A local one whose workers start when it is told so, as over a slow network."""

    capabilities = LocalTransport.capabilities

    def __init__(self):
        self.asked = anyio.Event()
        self.go_on = anyio.Event()
        self.local = LocalTransport()
        self.opened = 0

    @asynccontextmanager
    async def open(self, command):
        self.asked.set()
        await self.go_on.wait()
        async with self.local.open(command) as channel:
            self.opened += 1
            yield channel


def told(events):
    """The states and reasons among these events."""
    return [(status.state, status.reason) for status in statuses(events)]


# -- start ------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_a_created_session_is_stopped_until_it_is_started():
    """Creating is listing; starting twice is starting once."""
    async with SessionManager() as manager:
        session = manager.create(LocalTransport(), WORKER, session_id="s", dialect="kimi-wire")
        assert manager.get("s") is session is manager.sessions["s"]
        assert (session.status.state, session.status.seq) == (State.STOPPED, 0)
        assert session.status.worker_id is None
        receipt = await session.send(request("p", "prompt"))
        assert receipt.delivery is Delivery.REFUSED
        assert len(answers(await journal(session), "p")) == 1
        with deadline():
            await session.start()
            status = await session.start()
        assert (status.state, status.reason) == (State.IDLE, Reason.START)
        assert status.worker_id == "s/1"
        assert session.generation == 1
        with pytest.raises(ValueError, match="taken"):
            manager.create(LocalTransport(), WORKER, session_id="s")


async def test_two_starts_at_once_start_one_worker():
    """The second waits for the first, and finds the worker running."""
    async with SessionManager() as manager:
        session = manager.create(LocalTransport(), WORKER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.start)
            tasks.start_soon(session.start)
        assert session.generation == 1
        assert told(await journal(session)) == [(State.IDLE, Reason.START)]


@pytest.mark.uvloop
async def test_a_cancelled_start_is_given_up():
    """No worker comes after it, the session says what happened, and it can be started again."""
    transport = SlowTransport()
    async with SessionManager() as manager:
        session = manager.create(transport, WORKER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.start)
            with deadline():
                await transport.asked.wait()
            tasks.cancel_scope.cancel()
        with deadline():
            status = await session.wait_for(State.ERROR)
        assert status.reason is Reason.INITIALIZATION_FAILED
        assert status.detail is not None
        transport.go_on.set()
        with deadline():
            await session.start()
        assert transport.opened == 1
        assert await session.call("echo", {"a": 1}) == {"a": 1}


@pytest.mark.uvloop
async def test_a_start_that_is_cancelled_while_it_waits_for_another_ends_only_itself():
    """The one that is under way goes on: somebody else asked for it."""
    transport = SlowTransport()
    async with SessionManager() as manager:
        session = manager.create(transport, WORKER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.start)
            with deadline():
                await transport.asked.wait()
            with anyio.move_on_after(0.01):
                await session.start()
            transport.go_on.set()
        assert session.status.state is State.IDLE
        assert await session.call("echo", {"a": 1}) == {"a": 1}


async def test_a_start_that_is_cancelled_while_a_stop_is_under_way_never_begins():
    """Nobody waits for it any more when its turn comes."""
    async with SessionManager() as manager:
        session = await manager.start(LocalTransport(), WORKER, limits=QUICK)
        await ask(session, "ignore", "ignore", signals=["SIGTERM"], eof=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.stop)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0.01):
                await session.start()
        with deadline():
            await session.stop()  # comes behind all that was asked for before
        assert session.generation == 1


@pytest.mark.uvloop
async def test_a_stop_during_a_start_ends_it():
    """The start fails at once, and the session is stopped."""
    transport = SlowTransport()
    async with SessionManager() as manager:
        session = manager.create(transport, WORKER)
        failures = []

        async def start():
            try:
                await session.start()
            except Exception as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            with deadline():
                await transport.asked.wait()
            with at_most(1):
                status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        assert transport.opened == 0
        assert len(failures) == 1
        assert session.status.state is State.STOPPED


@pytest.mark.uvloop
async def test_a_prompt_during_a_start_is_delivered():
    """It waits for the worker that is coming; nothing vanishes."""
    transport = SlowTransport()
    async with SessionManager() as manager:
        session = manager.create(transport, WORKER, dialect="kimi-wire")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.start)
            with deadline():
                await transport.asked.wait()
            results = []

            async def prompt():
                results.append(await session.call("prompt", {"text": "early"}))

            tasks.start_soon(prompt)
            await anyio.lowlevel.checkpoint()
            transport.go_on.set()
        assert results == [{"text": "early"}]
        assert session.generation == 1


@pytest.mark.uvloop
async def test_a_send_that_waits_for_a_start_too_long_is_refused():
    """``timeout`` counts for the start of a worker too, and gives a receipt."""
    transport = SlowTransport()
    async with SessionManager() as manager:
        session = manager.create(transport, WORKER, dialect="kimi-wire")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.start)
            with deadline():
                await transport.asked.wait()
            with at_most(1):
                receipt = await session.send(request("p", "prompt"), timeout=0.05)
            assert receipt.delivery is Delivery.REFUSED
            assert len(answers(await journal(session), "p")) == 1
            transport.go_on.set()
        assert session.status.state is State.IDLE
        assert session.in_flight == frozenset()


# -- what cannot be started -------------------------------------------------------------------


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda tmp: (["no-such-command"], {}), "no such command"),
        (lambda tmp: ([str(tmp / "missing")], {}), "no such command"),
        (lambda tmp: ([executable(tmp / "x", "#!/no/such/interpreter\n")], {}), "interpreter"),
        (lambda tmp: ([str(tmp)], {}), "may not be used"),
        (lambda tmp: ([executable(tmp / "x", "\x00\x01")], {}), "no program for this machine"),
        (lambda tmp: (["true"], {"cwd": str(tmp / "missing")}), "no such directory"),
        (lambda tmp: (["true"], {"cwd": executable(tmp / "file", "")}), "no such directory"),
        (lambda tmp: (["true", "x" * 3_000_000], {}), "too long"),
    ],
    ids=["name", "path", "interpreter", "mode", "format", "cwd", "cwd is a file", "argv"],
)
async def test_what_cannot_be_started_says_what_to_do(make, hint, tmp_path):
    """``WorkerNotStarted`` names what is wrong, and leaves neither process nor descriptor."""
    command, options = make(tmp_path)
    async with SessionManager() as manager:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(WorkerNotStarted, match=hint) as caught:
            await manager.start(LocalTransport(), command, **options)
        assert len(os.listdir("/proc/self/fd")) == len(before)
        [session] = manager.sessions.values()
        assert session.status.reason is Reason.INITIALIZATION_FAILED
        assert session.status.detail == str(caught.value)
        with pytest.raises(WorkerNotStarted):
            await session.restart()
        with deadline():
            await session.stop()
        assert session.status.state is State.STOPPED


async def test_a_system_without_descriptors_is_unavailable(monkeypatch):
    """What is no fault of the command is told as such."""
    import errno

    def pipe():
        raise OSError(errno.EMFILE, "Too many open files")

    async with SessionManager() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", pipe)
            with pytest.raises(TransportUnavailable, match="descriptors"):
                await manager.start(LocalTransport(), WORKER, session_id="s")
        with deadline():
            assert (await manager.get("s").start()).state is State.IDLE


async def test_the_environment_and_the_directory_are_the_workers_own(tmp_path, monkeypatch):
    """``env`` adds to ours, or is all there is; ``cwd`` is where it runs."""
    monkeypatch.setenv("HOLDFAST_TEST_OURS", "ours")
    async with SessionManager() as manager:
        adding = await manager.start(
            LocalTransport(), WORKER, env={"ADDED": "ä b\n$c"}, cwd=str(tmp_path)
        )
        found = await adding.call("surroundings")
        assert found["cwd"] == str(tmp_path)
        assert found["env"]["ADDED"] == "ä b\n$c"
        assert found["env"]["HOLDFAST_TEST_OURS"] == "ours"
        command = Command(WORKER, env={"ONLY": "1"}, inherit_env=False)
        alone = await manager.start(LocalTransport(), command)
        found = await alone.call("surroundings")
        assert found["env"].pop("ONLY") == "1"
        assert "HOLDFAST_TEST_OURS" not in found["env"]
        assert "PATH" not in found["env"]


async def test_arguments_arrive_as_they_are():
    """No shell ever sees them."""
    odd = ["", " ", "a b", "$HOME", "`id`", "*", "'", '"', "\\", "-n", "ä\N{SNOWMAN}", "a\tb"]
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    command = [sys.executable, "-I", "-S", "-c", script, *odd]
    async with running(dialect="lines", command=command) as session:
        events = await until(session, lambda event: hasattr(event, "data"))
        assert json.loads(events[-1].data) == odd


# -- stop -------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_stop_answers_what_is_in_flight_and_says_so():
    """One answer each, then one status; a stopped session is started by nobody's request."""
    async with running() as session:
        await session.send(request("p", "prompt", do="hold"))
        with deadline():
            status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        [answer] = answers(await journal(session), "p")
        assert answer["error"]["data"]["reason"] == "stop"
        assert not session.is_busy
        receipt = await session.send(request("q", "prompt"))
        assert receipt.delivery is Delivery.REFUSED
        assert session.generation == 1
        with pytest.raises(WorkerLost):
            await session.call("prompt")
        with deadline():
            assert await session.stop() == status
            await session.start()
            assert await session.call("prompt", {"a": 1}) == {"a": 1}
        check(await journal(session))


@pytest.mark.uvloop
async def test_stops_at_once_are_one_stop():
    """However many ask for it, the ladder is climbed once and told once."""
    async with running(limits=QUICK) as session:
        await ask(session, "i", "ignore", eof=True, signals=["SIGTERM"])
        with at_most(2):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(session.stop)
        assert told(await journal(session)).count((State.STOPPED, Reason.STOP)) == 1


async def test_a_stop_goes_on_when_its_caller_is_cancelled():
    """Nobody leaves half a stop behind."""
    async with running(limits=QUICK) as session:
        await ask(session, "i", "ignore", eof=True)
        pid = await pid_of(session)
        with anyio.move_on_after(0.01):
            await session.stop()
        with deadline():
            status = await session.wait_for(State.STOPPED)
        assert status.exit == Exit(signal="SIGTERM")
        assert not alive(pid)


async def test_stopping_a_lost_session_makes_it_stopped():
    """``stop`` ends in ``stopped``, wherever it began."""
    async with running(limits=QUICK) as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
            status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        receipt = await session.send(request("p", "prompt"))
        assert receipt.delivery is Delivery.REFUSED


# -- restart ----------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_a_busy_session_is_restarted_by_force_only():
    """Without it, ``SessionBusy``, and nothing happens; with it, the request is answered."""
    async with running() as session:
        await session.send(request("p", "prompt", do="hold"))
        before = session.last_seq
        with pytest.raises(SessionBusy, match="force"):
            await session.restart()
        assert session.last_seq == before
        with deadline():
            status = await session.restart(force=True)
        assert (status.state, status.reason) == (State.IDLE, Reason.RESTART)
        assert session.generation == 2
        events = await journal(session)
        [answer] = answers(events, "p")
        assert answer["error"]["data"]["reason"] == "restart"
        assert told(events)[-2:] == [
            (State.RESTARTING, Reason.RESTART),
            (State.IDLE, Reason.RESTART),
        ]
        assert await session.call("prompt", {"a": 1}) == {"a": 1}
        check(await journal(session))


@pytest.mark.uvloop
async def test_a_stop_during_a_restart_ends_in_stopped():
    """Whichever comes first, no worker is left and the session says so."""
    async with running(limits=QUICK) as session:
        await ask(session, "i", "ignore", eof=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.restart)
            await until(session, is_status(State.RESTARTING))
            with at_most(3):
                status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        assert session.status.state is State.STOPPED
        check(await journal(session))


@pytest.mark.uvloop
async def test_prompts_through_many_restarts_are_all_delivered_or_answered():
    """Whatever happens meanwhile, none vanishes and none is answered twice."""
    async with running(dialect="jsonrpc") as session:
        outcomes = {}
        done = anyio.Event()

        async def prompts(lane):
            for number in range(40):
                id = f"{lane}-{number}"
                receipt = await session.send(request(id, "echo", id=id))
                outcomes[id] = receipt, await answer_to(session, receipt)
            done.set()

        with deadline(60):
            async with anyio.create_task_group() as tasks:
                for lane in range(3):
                    tasks.start_soon(prompts, lane)
                while not done.is_set():
                    await session.restart(force=True)
        assert len(outcomes) == 120
        for id, (receipt, answer) in outcomes.items():
            assert receipt.id == id
            if receipt.delivery is Delivery.REFUSED:
                assert answer["error"]["code"] == -32000
            elif "result" in answer:
                assert answer["result"] == {"id": id}
        assert any("result" in answer for _, answer in outcomes.values())
        check(await journal(session))


@pytest.mark.uvloop
async def test_restart_all_says_what_it_did(tmp_path):
    """Idle ones are restarted, busy ones skipped, and what cannot be started again has failed."""
    program = tmp_path / "program"
    program.symlink_to("/bin/cat")
    async with SessionManager() as manager:
        transport = LocalTransport()
        for name in ("a", "b", "busy"):
            await manager.start(transport, WORKER, session_id=name, dialect="kimi-wire")
        await manager.start(transport, [str(program)], session_id="gone")
        manager.create(transport, WORKER, session_id="never")
        await manager.get("busy").send(request("p", "prompt", do="hold"))
        program.unlink()
        with deadline():
            summary = await manager.restart_all()
        assert sorted(summary.restarted) == ["a", "b", "never"]
        assert summary.skipped_busy == ("busy",)
        assert summary.failed == ("gone",)
        assert manager.get("busy").is_busy
        assert manager.get("gone").status.reason is Reason.INITIALIZATION_FAILED
        with deadline():
            summary = await manager.restart_all(force=True)
        assert sorted(summary.restarted) == ["a", "b", "busy", "never"]
        assert manager.get("busy").generation == 2


# -- leaving ----------------------------------------------------------------------------------


async def some_sessions(manager):
    """Sessions in every mood, and the processes that belong to them."""
    pids = []
    transport = LocalTransport()
    for number in range(3):
        session = await manager.start(transport, WORKER, dialect="kimi-wire", limits=QUICK)
        pids.append(await pid_of(session))
        pids.append((await session.call("grandchild"))["pid"])
        if number == 1:
            await session.send(request("p", "prompt", do="hold"))
        if number == 2:
            await ask(session, "i", "ignore", eof=True, signals=["SIGTERM"])
    assert all(map(alive, pids))
    return pids


class Oops(Exception):
    """Something that goes wrong in the program."""


@pytest.mark.uvloop
@pytest.mark.parametrize("how", ["normally", "exception", "cancellation"])
async def test_leaving_a_manager_leaves_no_process(how, caplog):
    """However it is left, every worker and what it started is gone, in bounded time."""
    pids = []
    sessions = []
    with at_most(6):
        try:
            with anyio.CancelScope() as scope:
                async with SessionManager() as manager:
                    pids += await some_sessions(manager)
                    sessions += manager.sessions.values()
                    if how == "exception":
                        raise Oops
                    if how == "cancellation":
                        scope.cancel()
                        await anyio.sleep_forever()
        except* Oops:
            assert how == "exception"
    for pid in pids:
        await end_of(pid)
    for session in sessions:
        assert session.status.state is State.STOPPED, session.status
        assert session.status.reason is Reason.STOP
        assert not session.is_busy
        assert session.in_flight == frozenset()
        with pytest.raises(SessionClosed):
            await session.send(request("q", "prompt"))
        with pytest.raises(SessionClosed):
            await session.call("prompt")
        with pytest.raises(SessionClosed):
            await session.start()
        with pytest.raises(SessionClosed):
            await session.restart()
        assert (await session.stop()).state is State.STOPPED
        events = await journal(session)
        check(events)
        assert len(answers(events, "p")) == (1 if session is sessions[1] else 0)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.uvloop
async def test_leaving_a_manager_stops_all_sessions_at_once():
    """Ten workers that ignore the end of their input take no longer than one."""
    with at_most(4):
        async with SessionManager() as manager:
            for _ in range(10):
                session = await manager.start(
                    LocalTransport(), WORKER, limits=Limits(eof_grace=0.8, term_grace=0.8)
                )
                await session.call("ignore", {"eof": True})


async def test_a_session_of_no_manager_cannot_be_made():
    """A manager that is not entered, or was left, has no sessions to give."""
    manager = SessionManager()
    with pytest.raises(SessionClosed):
        manager.create(LocalTransport(), WORKER)
    async with manager:
        pass
    with pytest.raises(SessionClosed):
        manager.create(LocalTransport(), WORKER)


@pytest.mark.uvloop
async def test_subscribers_see_the_end_before_their_subscription_ends():
    """Whoever reads to the end reads the last status, when the manager is left too."""
    last = []

    async def read(session, ready):
        async with session.subscribe() as events:
            ready.set()
            async for event in events:
                final = event
        last.append(final)

    with deadline():
        async with anyio.create_task_group() as tasks:
            async with SessionManager() as manager:
                session = await manager.start(LocalTransport(), WORKER)
                ready = anyio.Event()
                tasks.start_soon(read, session, ready)
                await ready.wait()
    [final] = last
    assert isinstance(final, StatusChanged)
    assert final.status.state is State.STOPPED


async def test_forget_during_a_blocked_send_ends_it(gate):
    """A session that is forgotten keeps nobody waiting."""
    async with SessionManager() as manager:
        session = await manager.start(LocalTransport(), WORKER, session_id="s")
        await ask(session, "pause", "pause", fifo=gate.path)
        receipts = []
        with deadline():
            async with anyio.create_task_group() as tasks:
                await stuffed(session, tasks, receipts)
                with at_most(1):
                    await manager.forget("s")
        assert receipts[0].delivery is Delivery.UNKNOWN
        with pytest.raises(SessionClosed):
            await session.send(request("q", "echo"))
