"""A gateway in a process of its own, and a page of it in a real Chromium.

The browser's fixture has the scope of a module: while playwright's synchronous interface is open,
the thread counts as one in which an event loop runs, and tests of other modules want their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

WORKER = [sys.executable, "-I", "-S", "-u", str(Path(__file__).with_name("worker.py"))]
"""The command of the tests' worker."""

DEADLINE = 20.0
"""Seconds after which what is awaited is held not to come, on a machine that is busy."""

_CHROMIUM = "/usr/bin/chromium"
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_TOKEN = "the-token-of-the-tests-0123456789"


class Gateway:
    """``holdfast serve`` in a process of its own, and its REST interface."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        runtime = self._folder / "runtime"
        runtime.mkdir(mode=0o700, exist_ok=True)
        environment = {
            **os.environ,
            "HOLDFAST_TOKEN": _TOKEN,
            "XDG_RUNTIME_DIR": str(runtime),
        }
        command = [sys.executable, "-m", "holdfast", "serve", "--port", str(self.port)]
        command += ["--data", str(self._folder / "data")]
        with (self._folder / "stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("holdfast serves http://"):
            self.close()
            pytest.fail(f"the gateway did not start: {line}{self.stderr}")
        self.url = line.split()[2].split("?")[0]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def page(self) -> str:
        """The page's URL, with the token."""
        return f"{self.url}?token={_TOKEN}"

    @property
    def stderr(self) -> str:
        """What the gateway has logged."""
        return (self._folder / "stderr").read_text()

    def close(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(how)
        self._process.wait(DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it again: the same port, token and data."""
        self.close(how)
        self.start()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One REST request."""
        request = urllib.request.Request(
            f"{self.url}api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=DEADLINE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def create(
        self, command: Sequence[str] = WORKER, dialect: str = "kimi-wire", **more: object
    ) -> dict[str, Any]:
        """A new session."""
        body = {"target": "local:", "command": [*command], "dialect": dialect, **more}
        return self.ask("POST", "sessions/", body)

    def send(self, session: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message as a client that is not the page."""
        return self.ask("POST", f"sessions/{session}/messages?client=test", message)

    def prompt(self, session: str, text: str, id: str = "1") -> None:
        """Send a prompt, and wait until the session is not busy any more."""
        params = {"user_input": text}
        self.send(session, {"jsonrpc": "2.0", "id": id, "method": "prompt", "params": params})
        for _ in range(int(DEADLINE / 0.05)):
            if not self.ask("GET", f"sessions/{session}")["is_busy"]:
                return
            signal.sigtimedwait([], 0.05)
        raise AssertionError("still busy")

    def events(self, session: str, client: str = "test") -> list[dict[str, Any]]:
        """All events of a session."""
        events: list[dict[str, Any]] = []
        after = 0
        while True:
            answer = self.ask("GET", f"sessions/{session}/events?after={after}&client={client}")
            events += answer["events"]
            after = answer["next_after"]
            if after >= answer["last_seq"]:
                return events


class Screen:
    """The page as a person uses it, and what the browser complained of."""

    def __init__(self, page: Page, gateway: Gateway) -> None:
        self.page = page
        self.gateway = gateway
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))
        page.on("dialog", self._dialog)
        page.goto(gateway.page)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location})")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, session: str) -> None:
        """Go to a session."""
        self.page.goto(f"{self.gateway.url}#/sessions/{session}")
        self.shows_session()

    def shows_session(self) -> None:
        """Wait until a session is shown, and its stream is live."""
        expect(self.page.locator(".session")).to_be_visible()
        expect(self.page.locator("#link")).to_have_attribute("data-link", "live")

    @property
    def session_id(self) -> str:
        """The session that is shown."""
        return self.page.url.rpartition("/")[2]

    def forgive(self, text: str) -> None:
        """Take complaints that hold this text for expected."""
        self.complaints = [each for each in self.complaints if text not in each]

    def state(self, state: str) -> None:
        """Wait until the session is in this state."""
        expect(self.page.locator(".session")).to_have_attribute("data-state", state)

    def prompt(self, text: str) -> None:
        """Type a prompt and send it."""
        box = self.page.locator(".composer textarea")
        box.fill(text)
        box.press("Enter")

    @property
    def pid(self) -> int:
        """The worker's process id, as the newest worker has told it."""
        told = self.page.locator(".entry.note", has_text="Started").last.text_content()
        assert told is not None
        return int(told.partition('"pid":')[2].partition("}")[0])

    def entries(self) -> list[tuple[str, str]]:
        """What the transcript shows: the type of each entry, and its text."""
        return self.page.locator(".entries .entry:not([hidden])").evaluate_all(
            """nodes => nodes.map(node => [node.classList[1],
                 node.querySelector(".entry-body").textContent])"""
        )

    def raw_seqs(self) -> list[int]:
        """The numbers of the events that the raw view shows."""
        texts = self.page.locator(".raw-list .seq").all_text_contents()
        return [int(each) for each in texts]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for the tests of a module; each has sessions of its own."""
    running = Gateway(tmp_path_factory.mktemp("gateway"))
    yield running
    running.close()


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that belongs to one test."""
    running = Gateway(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    expect.set_options(timeout=DEADLINE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A browser profile of its own; ``@pytest.mark.parametrize(..., indirect=True)`` sets it up."""
    options = {"viewport": {"width": 1360, "height": 820}, **getattr(request, "param", {})}
    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE * 1000)
    yield context
    context.close()


@pytest.fixture
def make_screen(context: BrowserContext) -> Iterator[Callable[[Gateway], Screen]]:
    """Opens the page of a gateway; what the browser complains of fails the test."""
    screens: list[Screen] = []

    def make(gateway: Gateway) -> Screen:
        screens.append(Screen(context.new_page(), gateway))
        return screens[-1]

    yield make
    assert [each.complaints for each in screens if each.complaints] == []


@pytest.fixture
def screen(make_screen: Callable[[Gateway], Screen], gateway: Gateway) -> Screen:
    """The page of the module's gateway, at the list."""
    return make_screen(gateway)


@pytest.fixture
def worker() -> list[str]:
    """The command of the tests' worker."""
    return WORKER


@pytest.fixture
def session(gateway: Gateway) -> str:
    """The id of a session with the tests' worker, which runs."""
    return gateway.create()["id"]
