// One session: its head, timeline, transcript, raw events, details and prompt box.

import { Problem, api, client } from "./api.js";
import { Composer } from "./compose.js";
import { Details, guide } from "./details.js";
import { announce, ask, h, icon, setText, toast } from "./dom.js";
import { entryView, rawView, statusText } from "./entries.js";
import { Feed } from "./feed.js";
import { readEarlier } from "./history.js";
import { Model } from "./model.js";
import { titleOf } from "./sidebar.js";
import { oneLine, quoteArgv, shortCommand, visible, words } from "./text.js";
import { Timeline } from "./timeline.js";
import { WindowedList } from "./window.js";

const OPENING = 4000; // events read when a session is opened; earlier ones when asked for
const EARLIER = 2000; // events that one "load earlier" brings
const HELD = 20_000; // events held while the end is followed
const HELD_AT_MOST = 100_000; // and while somebody reads further up
const VIEWS = ["transcript", "raw", "details"];

export class SessionView {
  /**
   * @param {object} session as the gateway gives it
   * @param {{onlink: Function, onstatus: Function, ongone: Function, refresh: Function}} app
   */
  constructor(session, app) {
    this.id = session.id;
    this._session = session;
    this._status = session;
    this._app = app;
    this._live = false;
    this._complete = false;
    this._syncing = 0; // the timer of a _sync that waits
    this._rest = 0; // when the next may be
    this._model = new Model(client);
    this._from = Math.max(0, session.last_seq - OPENING, session.first_seq - 1);
    this._composer = new Composer(session, () => ({
      sessionId: this._model.acpSession,
      live: this._live,
      status: this._status,
    }));
    this._timeline = new Timeline((seq) => this._showSeq(seq));
    this._build();
    this._transcript = new WindowedList(
      this._scrollers.transcript,
      this._lists.transcript,
      (entry) => entryView(entry, { reply: (...what) => this._reply(...what), question: ({ asked, id }) => asked ?? this._composer.asked.get(id) }),
      () => this._moved(),
    );
    this._raw = new WindowedList(this._scrollers.raw, this._lists.raw, rawView, () => this._moved());
    this._transcript.replaced(this._model.entries);
    this._show("transcript");
    this._draw();
    this._feed = new Feed(this.id, this._from, {
      events: (events) => this._events(events),
      complete: () => this._completed(),
      lagged: (resumeFrom) => this._lagged(resumeFrom),
      reset: () => this._reset(),
      gone: () => app.ongone(this.id),
      link: (...what) => this._link(...what),
    });
  }

  close() {
    clearTimeout(this._syncing);
    this._feed.close();
    this._timeline.close();
  }

  /** What the list says of this session. */
  update(session) {
    const newer = session.seq >= (this._status.seq ?? 0);
    this._session = session;
    if (newer) this._status = session;
    this._feed.heard(session.last_seq);
    this._draw();
  }

  // -- events -----------------------------------------------------------------------------------

  _events(events) {
    const model = this._model;
    let news = false;
    for (const event of events) {
      const entry = model.push(event);
      if (event.event === "status_changed") {
        this._timeline.add(event.status);
        this._took(event.status);
        news = true;
      } else if (event.event === "stderr") {
        news = true;
      } else if (event.kind === "answer" && event.event === "line") {
        this._composer.settled(entry.id);
        if (this._complete && entry.type === "error") announce(`Error: ${oneLine(entry.error?.message ?? "", 160)}`);
      }
    }
    this._sync();
    if (news) this._draw();
  }

  /**
   * Bring the document up to the model; at once, unless that takes long: then it gets a fifth of
   * the time, and reading events the rest.
   */
  _sync() {
    if (this._syncing) return;
    const began = performance.now();
    if (began < this._rest) {
      this._syncing = setTimeout(() => {
        this._syncing = 0;
        this._sync();
      }, this._rest - began);
      return;
    }
    const model = this._model;
    this._transcript.sync(model.changed);
    model.changed.clear();
    if (this._view === "raw") this._raw.sync();
    const following = this._transcript.following && (this._view !== "raw" || this._raw.following);
    const dropped = model.trim(following ? HELD : HELD_AT_MOST);
    if (dropped.events) {
      this._from = model.first - 1;
      this._transcript.dropped(dropped.entries);
      if (this._view === "raw") this._raw.dropped(dropped.events);
    }
    this._empty.hidden = model.entries.some(({ type }) => type !== "turn" && type !== "hidden");
    this._moved();
    const took = performance.now() - began;
    this._rest = performance.now() + (took > 8 ? Math.min(took * 4, 400) : 0);
  }

  _took(status) {
    const before = this._status;
    if (status.seq < before.seq) return;
    this._status = { ...this._session, ...status };
    this._app.onstatus(this.id, status);
    if (!this._complete || status.state === before.state) return;
    announce(`${titleOf(this._session)}: ${status.state}, ${words(status.reason)}. ${oneLine(status.detail ?? "", 120)}`);
  }

  _completed() {
    const opened = !this._complete;
    this._complete = true;
    // Where many numbers are missing, the last ones alone may be next to nothing.
    if (opened && this._model.events.length < EARLIER / 10 && this._moreBefore) this._loadEarlier();
    this._empty.hidden = this._model.entries.length > 0;
    this._draw();
  }

  _lagged(resumeFrom) {
    const from = this._feed ? this._feed.cursor : this._from;
    if (resumeFrom <= from + 1) return;
    this._model.push({ seq: from, event: "gap", from: from + 1, to: resumeFrom - 1 });
    this._sync();
  }

  _reset() {
    this._model.reset();
    this._from = 0;
    this._complete = false;
    this._status = { ...this._session, seq: 0 };
    this._timeline.set([]);
    this._transcript.replaced(this._model.entries);
    this._raw.replaced(this._model.events);
    toast("The gateway’s history of this session is not the one this page has seen; it is read anew.", { bad: true });
  }

  _link(state, retryAt, why) {
    this._live = state === "live" || state === "watching";
    this._app.onlink(state, retryAt, why);
    this._composer.refresh();
  }

  async _loadEarlier() {
    const from = this._from;
    this._earlier.disabled = this._rawEarlier.disabled = true;
    try {
      const { after, events } = await readEarlier(this.id, from, this._session.first_seq || 1, EARLIER);
      if (this._from !== from) return; // meanwhile it was read anew
      this._from = after;
      this._model.prepend(events);
      this._timeline.set(this._model.statuses);
      const find = ({ seq }) => this._model.entries.findIndex((each) => each.last >= seq);
      this._transcript.rebuilt(this._model.entries, find);
      this._raw.rebuilt(this._model.events, (event) => this._model.events.indexOf(event));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      toast(error.text, { bad: true });
    } finally {
      this._earlier.disabled = this._rawEarlier.disabled = false;
      this._moved();
    }
  }

  _showSeq(seq) {
    this._show("transcript");
    const at = this._model.entries.findIndex((entry) => entry.seq >= seq);
    if (at < 0) return;
    const visibleAt = this._model.entries.findIndex(({ type }, i) => i >= at && type !== "turn" && type !== "hidden");
    const node = this._transcript.show(visibleAt < 0 ? at : visibleAt);
    node?.classList.add("shown");
    setTimeout(() => node?.classList.remove("shown"), 1500);
  }

  // -- what can be done -------------------------------------------------------------------------

  /** Answer the worker's request: with a result, or by hand. */
  async _reply(entry, result) {
    if (result === undefined || (typeof entry.id === "number" && !Number.isSafeInteger(entry.id))) {
      const id = /"id"\s*:\s*(-?\d+)/.exec(entry.events[0].text ?? "")?.[1];
      const text = typeof entry.id === "number" && id ? id : JSON.stringify(entry.id);
      this._composer.draft(`{"jsonrpc":"2.0","id":${text},"result":${JSON.stringify(result ?? {})}}`);
      return;
    }
    await this._composer.send(JSON.stringify({ jsonrpc: "2.0", id: entry.id, result }));
  }

  async cancel() {
    const message = this._composer.cancelMessage();
    if (!message) return toast("This dialect has no message that would cancel what runs now.");
    return this._composer.send(message);
  }

  async restart() {
    try {
      await this._do("restart", () => api.restart(this.id, false), true);
    } catch (error) {
      if (error.status !== 409) return toast(error.text, { bad: true });
      const choice = await ask({
        title: "The session is busy",
        text: "A request is being answered. If you restart now, it is answered with an error.",
        buttons: [{ value: "force", label: "Restart anyway", danger: true }],
      });
      if (choice === "force") await this._do("restart", () => api.restart(this.id, true));
    }
    return undefined;
  }

  stop() {
    return this._do("stop", () => api.stop(this.id));
  }

  kill() {
    return this._session.demo ? this._do("kill", () => api.kill(this.id)) : undefined;
  }

  async remove() {
    const choice = await ask({
      title: "Delete this session?",
      text: "Its worker is stopped, and its history is deleted.",
      buttons: [{ value: "delete", label: "Delete", danger: true }],
    });
    if (choice === "delete") await this._do("remove", () => api.remove(this.id));
  }

  async _do(name, call, rethrow = false) {
    const button = this._actions[name];
    button.setAttribute("aria-busy", "true");
    try {
      await call();
    } catch (error) {
      if (!(error instanceof Problem) || rethrow) throw error;
      toast(error.text, { bad: true });
    } finally {
      button.removeAttribute("aria-busy");
      this._feed.poke();
      this._app.refresh();
    }
  }

  focusPrompt() {
    this._composer.focus();
  }

  focusTimeline() {
    this._timeline.focus();
  }

  nextView() {
    const shown = VIEWS.filter((view) => this._tabs[view].offsetParent !== null);
    this._show(shown[(shown.indexOf(this._view) + 1) % shown.length]);
  }

  // -- the document -----------------------------------------------------------------------------

  _build() {
    const session = this._session;
    const action = (name, label, extra = "") =>
      h("button", { class: `button small ${extra}`, "data-action": name, onclick: () => this[name]() }, label);
    this._actions = {
      cancel: action("cancel", "Cancel"),
      kill: action("kill", "Kill worker", "danger"),
      restart: action("restart", "Restart"),
      stop: action("stop", "Stop"),
      remove: action("remove", "Delete"),
    };
    this._state = h("strong", { class: "state" });
    this._reason = h("span", { class: "reason" });
    this._detail = h("p", { class: "detail" });
    this._durability = h("span", { class: "durability", hidden: true });
    const head = h(
      "header",
      { class: "session-head" },
      h("a", { class: "back icon-button", href: "#/", "aria-label": "All sessions" }, icon("back")),
      h(
        "div",
        { class: "titles" },
        h(
          "div",
          { class: "title-row" },
          h("h1", { tabindex: "-1" }, titleOf(session)),
          h("span", { class: "pill" }, h("span", { class: "dot" }), this._state, this._reason),
          this._durability,
        ),
        h("div", { class: "subtitle" }, h("span", {}, oneLine(session.target)), h("code", { title: oneLine(quoteArgv(session.command)) }, oneLine(shortCommand(session.command)))),
      ),
      h("div", { class: "actions", role: "group", "aria-label": "Actions" }, Object.values(this._actions)),
    );

    this._tabs = Object.fromEntries(
      [["transcript", "Transcript"], ["raw", "Raw"], ["details", "Details"]].map(([view, label]) => [
        view,
        h("button", { role: "tab", id: `tab-${view}`, "aria-controls": `panel-${view}`, "data-view": view, onclick: () => this._show(view) }, label),
      ]),
    );
    const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Views" }, Object.values(this._tabs));
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const shown = VIEWS.filter((view) => this._tabs[view].offsetParent !== null);
      const view = shown[(shown.indexOf(this._view) + step + shown.length) % shown.length];
      this._show(view);
      this._tabs[view].focus();
    });
    this._stderrCount = h("span", { class: "count", hidden: true }, "stderr");
    this._tabs.details.append(this._stderrCount);

    this._lists = { transcript: h("div", { class: "entries" }), raw: h("div", { class: "raw-list" }) };
    this._earlier = h("button", { class: "button small earlier", hidden: true, onclick: () => this._loadEarlier() }, "Load earlier");
    this._rawEarlier = h("button", { class: "button small earlier", hidden: true, onclick: () => this._loadEarlier() }, "Load earlier");
    this._empty = h("p", { class: "hint pad", hidden: true }, "Nothing has been said yet.");
    this._scrollers = {
      transcript: h(
        "div",
        { class: "scroller", id: "panel-transcript", role: "log", "aria-live": "off", "aria-labelledby": "tab-transcript", tabindex: "0" },
        this._earlier, this._empty, this._lists.transcript,
      ),
      raw: h(
        "div",
        { class: "scroller", id: "panel-raw", role: "tabpanel", "aria-labelledby": "tab-raw", tabindex: "0", hidden: true },
        this._rawEarlier, this._lists.raw,
      ),
    };
    this._toEnd = h("button", { class: "button small to-end", hidden: true, onclick: () => this._current.follow() }, "↓ Latest");
    this._guide = session.demo ? guide() : null;
    this._details = new Details();

    this.node = h(
      "section",
      { class: "session", "aria-label": `Session ${titleOf(session)}` },
      head,
      this._detail,
      this._timeline.node,
      h(
        "div",
        { class: "session-body" },
        h(
          "div",
          { class: "column" },
          tabs,
          h("div", { class: "stage" }, this._scrollers.transcript, this._scrollers.raw, this._toEnd),
          this._guide?.node,
          this._composer.node,
        ),
        this._details.node,
      ),
    );
  }

  get _current() {
    return this._view === "raw" ? this._raw : this._transcript;
  }

  _show(view) {
    this._view = view;
    this.node.dataset.view = view;
    for (const each of VIEWS) {
      this._tabs[each].setAttribute("aria-selected", String(each === view));
      this._tabs[each].setAttribute("tabindex", each === view ? "0" : "-1");
    }
    this._scrollers.transcript.hidden = view !== "transcript";
    this._scrollers.raw.hidden = view !== "raw";
    if (view === "raw") this._raw.replaced(this._model.events);
    else this._transcript.shown();
    this._moved();
  }

  /** Another part of a list is in sight. */
  _moved() {
    if (!this._raw || !this._view) return; // not built yet
    const { following, behind } = this._current;
    this._toEnd.hidden = following;
    setText(this._toEnd, behind > 0 ? `↓ Latest (${behind} more)` : "↓ Latest");
    const more = this._complete && this._moreBefore;
    this._earlier.hidden = !more || !this._transcript.atStart;
    this._rawEarlier.hidden = !more || !this._raw.atStart;
  }

  get _moreBefore() {
    return this._from >= (this._session.first_seq || 1);
  }

  _draw() {
    const { _status: status, _session: session } = this;
    this.node.dataset.state = status.state;
    setText(this._state, status.state);
    setText(this._reason, words(status.reason));
    const said = status.state === "error" ? visible(statusText(status)) : "";
    setText(this._detail, said);
    this._detail.hidden = !said;
    const runs = status.state === "idle" || status.state === "busy";
    this._actions.cancel.hidden = status.state !== "busy";
    this._actions.kill.hidden = !session.demo;
    this._actions.kill.disabled = !runs;
    setText(this._actions.restart, status.state === "stopped" ? "Start" : "Restart");
    this._actions.restart.disabled = status.state === "restarting";
    this._actions.stop.disabled = status.state === "stopped";
    const memory = session.durability === "memory";
    this._durability.hidden = !memory;
    setText(this._durability, "in memory only");
    this._durability.title = visible(session.durability_detail ?? "What happens here is lost when the gateway ends.");
    this._details.draw(status, session, this._feed?.cursor ?? 0);
    this._details.drawStderr(this._model.stderr);
    this._stderrCount.hidden = this._model.stderr === "";
    this._guide?.update(this._model, status);
    this._composer.refresh();
    this._moved();
  }
}
