"""The gateway ends and comes again under the open page."""

from __future__ import annotations

import signal

import pytest
from playwright.sync_api import expect

SEQS = """[...document.querySelectorAll('.raw-event:not(.gap) .seq')]
    .map(node => Number(node.textContent))"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_page_resumes_where_it_was(own_gateway, make_screen, how):
    """After a restart the page goes on by itself: no event is lost, none comes twice."""
    session = own_gateway.create()["id"]
    screen = make_screen(own_gateway)
    screen.open(session)
    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_be_visible()
    screen.prompt("talk")
    expect(screen.page.locator(".entry.text").last).to_contain_text("word3")
    screen.page.evaluate("document.body.same = true")  # until somebody loads the page anew

    own_gateway.restart(how)
    screen.shows_session()
    expect(screen.page.locator(".session")).not_to_have_attribute("data-state", "busy")
    # What was in flight is answered, by whom it may be.
    expect(screen.page.locator(".entry.error.by-holdfast")).to_be_visible()
    kept = own_gateway.ask("GET", f"sessions/{session}")
    if kept["state"] == "stopped":
        screen.page.get_by_role("button", name="Start").click()
        screen.state("idle")
    screen.prompt("hello")
    expect(screen.page.locator(".entry.answer")).to_have_count(2)
    screen.state("idle")

    assert screen.page.evaluate("document.body.same") is True
    client = screen.page.evaluate("sessionStorage.getItem('holdfast-client')")
    there = [event["seq"] for event in own_gateway.events(session, client)]
    screen.page.get_by_role("tab", name="Raw").click()
    shown = screen.page.evaluate(SEQS)
    assert shown == sorted(set(shown))
    # A gateway that was killed may not have kept the last events that the page has seen.
    assert set(there) <= set(shown)
    if how is signal.SIGTERM:
        assert shown == there == list(range(1, len(there) + 1))
    # Whoever opens the page now sees all that was kept, across the numbers left out.
    anew = make_screen(own_gateway)
    anew.open(session)
    anew.page.get_by_role("tab", name="Raw").click()
    expect(anew.page.locator(".raw-list .seq").first).to_have_text("1")
    mine = [each["seq"] for each in own_gateway.events(session, "nobody")]
    assert anew.page.evaluate(SEQS) == mine
    screen.page.get_by_role("tab", name="Transcript").click()
    said = [text for kind, text in screen.entries() if kind == "text"]
    assert said[0] == said[-1] == "Hello to you."
    screen.forgive("net::ERR_")


def test_while_the_gateway_is_away_the_page_says_so(own_gateway, make_screen):
    """The connection is shown as lost, and as live again once it is."""
    session = own_gateway.create()["id"]
    screen = make_screen(own_gateway)
    screen.open(session)
    own_gateway.close()
    expect(screen.page.locator("#link")).to_have_attribute("data-link", "lost")
    expect(screen.page.locator("#link")).to_contain_text("econnecting")
    own_gateway.start()
    screen.shows_session()
    screen.forgive("net::ERR_")
