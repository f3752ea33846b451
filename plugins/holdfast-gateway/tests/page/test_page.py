"""What a person does on the page, in a real Chromium, against a gateway in a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import time

import pytest
from playwright.sync_api import Locator, expect

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def form(screen) -> Locator:
    return screen.page.get_by_role("dialog", name="New session")


def worker_of(screen) -> list[str]:
    return screen.gateway.ask("GET", f"sessions/{screen.session_id}")["command"]


def test_a_session_is_created_by_the_form(screen, worker):
    """The form makes a session of its fields: the command is split as a shell splits words."""
    screen.page.get_by_role("button", name="New session").first.click()
    dialog = form(screen)
    dialog.get_by_label("Where").select_option("local")
    dialog.get_by_label("Command").fill(f"{shlex.join(worker)} 'two  words' \"\"")
    expect(dialog.locator(".word")).to_have_text([*worker, "two  words", "empty"])
    dialog.get_by_label("Dialect").select_option("kimi-wire")
    dialog.get_by_label("Name").fill("made by hand")
    dialog.get_by_role("button", name="Add a variable").click()
    dialog.get_by_label("Variable", exact=True).fill("SECRET")
    dialog.get_by_label("Value", exact=True).fill("canary")
    expect(dialog.get_by_label("Value", exact=True)).to_have_attribute("type", "password")
    dialog.get_by_role("button", name="Start session").click()

    screen.shows_session()
    screen.state("idle")
    expect(screen.page.locator("h1")).to_have_text("made by hand")
    session = screen.gateway.ask("GET", f"sessions/{screen.session_id}")
    assert session["command"] == [*worker, "two  words", ""]
    assert session["env"] == ["SECRET"]
    row = screen.page.locator(f'[data-id="{screen.session_id}"]')
    expect(row).to_contain_text("made by hand")
    expect(row).to_contain_text("idle")


def test_a_command_that_cannot_be_split_is_not_started(screen):
    """An open quote is said in the form, and nothing is created."""
    screen.page.get_by_role("button", name="New session").first.click()
    form(screen).get_by_label("Command").fill("sh -c 'open")
    form(screen).get_by_role("button", name="Start session").click()
    expect(form(screen).get_by_role("alert")).to_contain_text("a ' is not closed")


def test_a_worker_that_cannot_be_started_is_shown_as_a_session(screen):
    """A command that does not exist gives a session in error, which says so."""
    screen.page.get_by_role("button", name="New session").first.click()
    form(screen).get_by_label("Command").fill("/no/such/program")
    form(screen).get_by_role("button", name="Start session").click()
    screen.shows_session()
    screen.state("error")
    expect(screen.page.locator(".pill")).to_contain_text("initialization failed")
    expect(screen.page.locator(".session > .detail")).to_contain_text("/no/such/program")


def test_a_prompt_and_what_is_said(screen, session):
    """A prompt, the pieces of the answer as one text, and its end."""
    screen.open(session)
    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")
    assert [(kind, text) for kind, text in screen.entries() if kind in ("user", "text")] == [
        ("user", "Prompthello"),
        ("text", "Hello to you."),
    ]


def test_a_worker_killed_from_outside(screen, session):
    """Within a second of kill -9 the page shows the error and its answer; a prompt recovers."""
    screen.open(session)
    screen.prompt("talk")
    expect(screen.page.locator(".entry.text")).to_contain_text("word2")
    pid = screen.pid
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    screen.state("error")
    answer = screen.page.locator(".entry.error.by-holdfast")
    expect(answer).to_be_visible()
    seconds = time.monotonic() - killed
    print(f"{seconds:.3f} s from kill -9 to the error and its answer on the screen")
    assert seconds < 10  # a second and less where the machine has time

    expect(answer).to_contain_text("in the worker")
    expect(answer).to_contain_text("killed by SIGKILL")
    expect(answer).to_contain_text("asked: talk")
    expect(screen.page.locator(".session > .detail")).to_contain_text("killed by SIGKILL")
    expect(screen.page.locator(".timeline .bar").last).to_have_attribute("data-state", "error")

    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")
    screen.state("idle")
    assert screen.pid != pid
    kinds = [kind for kind, _ in screen.entries()]
    assert kinds[-7:] == ["error", "status", "status", "user", "note", "text", "answer"]


def test_an_idle_worker_killed_from_outside(screen, session):
    """A worker killed while nothing runs is shown as lost, with no prompt at all."""
    screen.open(session)
    expect(screen.page.locator(".entry.note")).to_contain_text("Started")
    os.kill(screen.pid, signal.SIGKILL)
    screen.state("error")
    expect(screen.page.locator(".pill")).to_contain_text("process exit")


def test_the_demo_in_four_clicks(own_gateway, context, make_screen):
    """A newcomer starts the demo, kills its worker by a button, sees the truth and recovers."""
    screen = make_screen(own_gateway)
    screen.page.get_by_role("button", name="Start the demo").click()
    screen.shows_session()
    screen.state("idle")
    screen.prompt("Who are you?")
    screen.state("busy")
    screen.page.get_by_role("button", name="Kill worker").click()
    screen.state("error")
    expect(screen.page.locator(".entry.error.by-holdfast")).to_be_visible()
    screen.prompt("And now?")
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")
    expect(screen.page.locator(".guide li.done")).to_have_count(4)


def test_only_the_demo_can_be_killed_by_a_button(screen, session):
    """Other sessions have no such button."""
    screen.open(session)
    expect(screen.page.get_by_role("button", name="Kill worker")).to_be_hidden()


def test_cancel(screen, session):
    """The button that cancels is there while something runs, and ends it."""
    screen.open(session)
    cancel = screen.page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_hidden()
    screen.prompt("talk")
    cancel.click()
    expect(screen.page.locator(".entry.answer", has_text="cancelled")).to_be_visible()
    screen.state("idle")


def test_a_busy_session_is_restarted_by_force_only(screen, session):
    """Restart asks before it takes an answer away; the request is then answered with an error."""
    screen.open(session)
    screen.prompt("talk")
    screen.state("busy")
    screen.page.get_by_role("button", name="Restart").click()
    dialog = screen.page.get_by_role("dialog", name="The session is busy")
    dialog.get_by_role("button", name="Leave it").click()
    screen.state("busy")
    screen.page.get_by_role("button", name="Restart").click()
    dialog.get_by_role("button", name="Restart anyway").click()
    expect(screen.page.locator(".entry.error.by-holdfast")).to_be_visible()
    screen.state("idle")
    # The refused attempt is a 409, which the browser notes.
    screen.forgive("409")


def test_a_stopped_session_is_not_started_by_looking_at_it(screen, session):
    """Stop holds although the page is opened again; Start brings the worker back."""
    screen.open(session)
    screen.page.get_by_role("button", name="Stop").click()
    screen.state("stopped")
    screen.page.reload()
    screen.shows_session()
    screen.state("stopped")
    expect(screen.page.locator(".entry.note")).to_contain_text("Started")
    assert screen.gateway.ask("GET", f"sessions/{session}")["state"] == "stopped"
    screen.page.get_by_role("button", name="Start").click()
    screen.state("idle")
    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")


def test_a_deleted_session(screen, session):
    """Delete asks first; then the page is at the list, which does not have it any more."""
    screen.open(session)
    screen.page.get_by_role("button", name="Delete").click()
    screen.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(screen.page.locator(f'[data-id="{session}"]')).to_have_count(0)
    expect(screen.page.locator(".session")).to_have_count(0)


def test_a_session_deleted_by_somebody_else(screen, session):
    """The page says so, and goes to the list."""
    screen.open(session)
    screen.gateway.ask("DELETE", f"sessions/{session}")
    expect(screen.page.locator(".toast")).to_contain_text("deleted")
    expect(screen.page.locator(".session")).to_have_count(0)


def test_a_request_of_the_worker_is_answered_by_a_button(screen, session):
    """What the worker asks its client stands with its choices; a click answers it."""
    screen.open(session)
    screen.prompt("ask")
    card = screen.page.locator(".entry.ask")
    expect(card).to_contain_text("rm -r build")
    card.get_by_role("button", name="Approve", exact=True).click()
    expect(card).to_contain_text("answered")
    expect(screen.page.locator(".entry.answer")).to_contain_text("approve")


def test_a_tool_is_one_card(screen, session):
    """A tool's call and its result are one card, which opens to both."""
    screen.open(session)
    screen.prompt("tool")
    card = screen.page.locator(".entry.tool")
    expect(card).to_have_count(1)
    expect(card.locator("summary")).to_contain_text("Shell")
    expect(card.locator("summary")).to_contain_text("done")
    card.locator("summary").click()
    expect(card).to_contain_text("README.md")


def test_what_others_send_is_seen_and_not_what_they_are_answered(screen, session):
    """Another client's prompt stands there with its name; the answer is its own."""
    screen.open(session)
    screen.gateway.prompt(session, "hello")
    expect(screen.page.locator(".entry.user")).to_contain_text("sent by test")
    expect(screen.page.locator(".entry.text")).to_contain_text("Hello to you.")
    screen.state("idle")
    expect(screen.page.locator(".entry.answer")).to_have_count(0)


def test_stderr(screen, session):
    """What the worker writes to stderr stands in its own place."""
    screen.open(session)
    screen.prompt("stderr something is odd")
    expect(screen.page.locator(".stderr")).to_contain_text("something is odd")


def test_raw_events_of_one_entry_and_of_all(screen, session):
    """Each entry shows its events as they came, and the raw view all of them, in order."""
    screen.open(session)
    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_be_visible()
    text = screen.page.locator(".entry.text")
    text.hover()
    text.get_by_role("button", name="Raw events").click()
    expect(text.locator(".raw-event")).to_have_count(4)  # three pieces, and TurnEnd behind them
    screen.page.get_by_role("tab", name="Raw").click()
    expect(screen.page.locator(".raw-list")).to_contain_text('"user_input":"hello"')
    screen.state("idle")
    last = screen.gateway.ask("GET", f"sessions/{session}")["last_seq"]
    expect(screen.page.locator(".raw-list .seq").last).to_have_text(str(last))
    assert screen.raw_seqs() == list(range(1, last + 1))


def test_dialect_lines(screen, worker):
    """A worker without a protocol is sent lines, and what it prints stands as text."""
    session = screen.gateway.create([*worker, "plain"], dialect="lines")["id"]
    screen.open(session)
    screen.prompt("one line")
    expect(screen.page.locator(".entry.output")).to_contain_text("one line")
    screen.prompt("{not json}")
    expect(screen.page.locator(".entry.output").last).to_contain_text("{not json}")


def test_dialect_jsonrpc(screen, worker):
    """A request is made of a method and its parameters; what is no JSON is not sent."""
    session = screen.gateway.create(worker, dialect="jsonrpc")["id"]
    screen.open(session)
    screen.page.get_by_label("Method", exact=True).fill("prompt")
    screen.prompt("{no json")
    expect(screen.page.locator(".receipt")).to_contain_text("no JSON")
    screen.prompt('{"user_input": "hello"}')
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")
    screen.page.get_by_role("button", name="Raw JSON").click()
    box = screen.page.get_by_label("Message")
    box.fill('{"jsonrpc": "2.0",\n "id": 12345678901234567890123,\n "method": "other"}')
    box.press("Control+Enter")
    expect(screen.page.locator(".entry.answer")).to_have_count(2)


def test_dialect_acp(screen, worker):
    """An agent that needs a handshake is given one by its templates; then there are prompts."""
    session = screen.gateway.create(worker, dialect="acp")["id"]
    screen.open(session)
    send = screen.page.get_by_role("button", name="Send")
    expect(send).to_be_disabled()
    expect(screen.page.locator("#composer-hint")).to_contain_text("handshake")
    screen.page.get_by_role("button", name="Raw JSON").click()
    for count, template in enumerate(("initialize", "session/new"), 1):
        screen.page.get_by_role("button", name=template, exact=True).click()
        send.click()
        expect(screen.page.locator(".entry.answer")).to_have_count(count)
    screen.page.get_by_role("button", name="Prompt", exact=True).click()
    screen.prompt("good day")
    expect(screen.page.locator(".entry.text")).to_contain_text("You said: good day")
    expect(screen.page.locator(".entry.answer").last).to_contain_text("end turn")


def test_timeline_by_keyboard(screen, session):
    """The timeline's bars are reached by arrow keys, and say state, reason and exit."""
    screen.open(session)
    screen.prompt("talk")
    expect(screen.page.locator(".entry.text")).to_contain_text("word2")
    os.kill(screen.pid, signal.SIGKILL)
    screen.state("error")
    screen.page.keyboard.press("Escape")
    screen.page.keyboard.press("t")
    tip = screen.page.locator(".tip")
    expect(tip).to_contain_text("killed by SIGKILL")
    expect(tip).to_contain_text("worker exited")
    screen.page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text("busy")
    screen.page.keyboard.press("Home")
    expect(tip).to_contain_text("the worker runs")


def test_by_keyboard_alone(screen, worker):
    """A session is created, prompted and stopped without a pointer."""
    keys = screen.page.keyboard
    expect(screen.page.locator("#link")).to_have_attribute("data-link", "live")
    keys.press("n")
    expect(form(screen).get_by_label("Command")).to_be_focused()
    keys.type(shlex.join(worker))
    keys.press("Tab")
    keys.type("kimi")  # a select takes the option that begins so
    keys.press("Tab")
    keys.press("Enter")
    screen.shows_session()
    keys.press("p")
    keys.type("hello")
    keys.press("Enter")
    expect(screen.page.locator(".entry.answer")).to_contain_text("finished")
    keys.press("Escape")
    keys.press("?")
    expect(screen.page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    keys.press("Escape")
    keys.press("Shift+S")
    screen.state("stopped")
    expect(screen.page.locator("#announcer")).to_contain_text("stopped")


@pytest.mark.parametrize("context", [PHONE], indirect=True, ids=["phone"])
def test_on_a_phone(screen, session):
    """List and session are places of their own, and nothing is wider than the screen."""
    width = "document.documentElement.scrollWidth"
    expect(screen.page.locator(".session-list")).to_be_visible()
    assert screen.page.evaluate(width) <= 390
    screen.page.locator(f'[data-id="{session}"] a').tap()
    screen.shows_session()
    expect(screen.page.locator(".session-list")).to_be_hidden()
    screen.prompt("hello " + "x" * 500)
    expect(screen.page.locator(".entry.answer")).to_have_count(1)
    screen.state("idle")
    screen.prompt("hostile")
    expect(screen.page.locator(".entry.answer")).to_have_count(2)
    assert screen.page.evaluate(width) <= 390
    screen.page.get_by_role("tab", name="Details").tap()
    expect(screen.page.locator(".inspector")).to_be_visible()
    assert screen.page.evaluate(width) <= 390
    screen.page.get_by_role("link", name="All sessions").tap()
    expect(screen.page.locator(".session-list")).to_be_visible()


def test_light_and_dark(screen, session):
    """The colours are the system's, until the button chooses; the choice is kept."""
    colour = "getComputedStyle(document.body).backgroundColor"

    def is_dark() -> bool:
        red, green, blue = screen.page.evaluate(colour)[4:-1].split(",")
        return int(red) + int(green) + int(blue) < 3 * 128

    screen.open(session)
    assert not is_dark()
    screen.page.emulate_media(color_scheme="dark")
    assert is_dark()
    screen.page.locator("#theme").click()
    assert not is_dark()
    screen.page.reload()
    screen.shows_session()
    assert not is_dark()
    screen.page.emulate_media(color_scheme="light")
    screen.page.locator("#theme").click()
    assert is_dark()


def test_hostile_output_is_text(screen, session):
    """Markup, ANSI and bidi characters make no element, no dialog, no title: they are written."""
    screen.open(session)
    screen.prompt("hostile")
    expect(screen.page.locator(".entry.answer")).to_be_visible()
    for each in screen.page.locator(".entry details > summary").all():
        each.click()
    for each in screen.page.locator(".raw-button").all():
        each.evaluate("node => node.click()")
    shown = screen.page.locator(".session")
    expect(shown).to_contain_text("<img src=x onerror=")
    expect(shown).to_contain_text("\\x1b[31mred\\x1b[0m")
    expect(shown).to_contain_text("user\\u202etxt.exe\\u202c")
    expect(shown).to_contain_text("caf\\xe9 <b>bytes</b>")
    screen.page.get_by_role("tab", name="Raw").click()
    expect(screen.page.locator(".raw-list")).to_contain_text("<script>")
    assert screen.page.locator("img:not(.brand img), main script, main b").count() == 0
    assert "owned" not in screen.page.title()
    text = screen.page.evaluate("document.body.textContent + document.body.outerHTML")
    assert not [each for each in text if each in "\x1b\x07\x08\x9b\u202e\u202c\u2066\u2069\u200b"]


def test_a_long_flood(screen, session):
    """All of 30,000 messages is read, the document stays small, and the end is in sight."""
    screen.open(session)
    began = time.monotonic()
    screen.prompt("count 30000")
    expect(screen.page.locator(".entry.answer")).to_be_visible(timeout=100_000)
    print(f"{time.monotonic() - began:.1f} s for 30,000 events")
    assert screen.page.locator(".entries > *").count() <= 400
    expect(screen.page.locator(".entry.note").last).to_contain_text("n29999")
    assert screen.page.evaluate("document.querySelectorAll('*').length") < 8000


def test_earlier_events_are_loaded_on_request(screen, session):
    """A long session opens at its end; what came before is loaded once, in order."""
    screen.gateway.prompt(session, "count 9000")
    screen.open(session)
    expect(screen.page.locator(".entry.note").last).to_contain_text("n8999")
    screen.page.get_by_role("tab", name="Raw").click()
    seqs = screen.page.evaluate(SEQS)
    assert seqs[0] > 2000
    for _ in range(3):  # 4,000 are there, and 2,000 come at a time
        screen.page.locator("#panel-raw").press("Home")
        screen.page.locator("#panel-raw .earlier").click()
        expect(screen.page.locator("#panel-raw .earlier")).to_be_hidden()  # it went up
    there = [event["seq"] for event in screen.gateway.events(session, "nobody")]
    raw = screen.page.locator("#panel-raw")
    while True:
        now = screen.page.evaluate(SEQS)
        first = there.index(now[0])
        assert now == there[first : first + len(now)]
        if first == 0:
            break
        raw.evaluate("node => node.scrollTop = 0")
        expect(screen.page.locator(".raw-list .seq").first).not_to_have_text(str(now[0]))


SEQS = "[...document.querySelectorAll('.raw-list .seq')].map(node => Number(node.textContent))"


def test_a_browser_without_the_token(screen, session):
    """Who is not known any more is told how to come back."""
    screen.open(session)
    screen.page.context.clear_cookies()
    dialog = screen.page.get_by_role("dialog", name="The gateway does not know this browser")
    expect(dialog).to_contain_text("holdfast serve")
    dialog.get_by_label("URL or token").fill(screen.gateway.page)
    dialog.get_by_role("button", name="Open").click()
    screen.shows_session()
    screen.forgive("401")
