// The list of sessions, asked for again and again while somebody looks.

import { Problem, api, skew } from "./api.js";
import { $, announce, h, setText } from "./dom.js";
import { age, oneLine, quoteArgv, words } from "./text.js";

const EVERY = 1500; // ms between two answers
const HIDDEN_EVERY = 10_000; // ms, while the page is in the background
const GRAVEST_FIRST = ["error", "restarting", "busy", "idle", "stopped"];

/** What a session is called: its name, or its command. */
export function titleOf(session) {
  return oneLine(session.name || quoteArgv(session.command).split(" ").map((w) => w.split("/").pop()).join(" ") || session.id, 60);
}

export class Sidebar {
  /** `onsessions(list)` hears every answer, `onlink(reachable)` whether there was one. */
  constructor({ onsessions, onlink }) {
    this._onsessions = onsessions;
    this._onlink = onlink;
    this._list = $("session-list");
    this._rows = new Map();
    this._selected = null;
    this._timer = 0;
    this.sessions = [];
    this.known = false; // whether there was an answer
    this._filter = $("filter");
    this._filter.addEventListener("input", () => this._draw());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  /** Ask now. */
  async refresh() {
    clearTimeout(this._timer);
    this._asking?.abort();
    const asking = (this._asking = new AbortController());
    try {
      const sessions = await api.sessions(asking.signal);
      if (this._asking !== asking) return;
      this._onlink(true);
      this._take(sessions);
    } catch (error) {
      if (error.name === "AbortError" || this._asking !== asking) return;
      if (!(error instanceof Problem)) throw error;
      this._onlink(false, error);
      if (error.status === 401) return;
    }
    this._asking = null;
    this._timer = setTimeout(() => this.refresh(), document.hidden ? HIDDEN_EVERY : EVERY);
  }

  select(id) {
    this._selected = id;
    for (const [each, row] of this._rows) row.mark(each === id);
  }

  /** The session `step` places below the selected one. */
  neighbour(step) {
    const shown = this._shown();
    const at = shown.findIndex(({ id }) => id === this._selected);
    if (at < 0) return shown[step > 0 ? 0 : shown.length - 1];
    return shown[Math.min(Math.max(at + step, 0), shown.length - 1)];
  }

  /** A status that came by the stream is newer than the list. */
  update(id, status) {
    const session = this.sessions.find((each) => each.id === id);
    if (!session || status.seq <= session.seq) return;
    Object.assign(session, status);
    this._draw();
  }

  _take(sessions) {
    for (const session of sessions) {
      const before = this.sessions.find(({ id }) => id === session.id);
      const newer = before && before.seq > session.seq;
      if (newer) Object.assign(session, { state: before.state, seq: before.seq, reason: before.reason, detail: before.detail, updated_at: before.updated_at });
      const fell = before && before.state !== "error" && session.state === "error";
      if (fell && session.id !== this._selected) {
        announce(`Session ${titleOf(session)}: error, ${words(session.reason)}`);
      }
    }
    this.known = true;
    this.sessions = sessions.sort((a, b) => b.created_at.localeCompare(a.created_at) || a.id.localeCompare(b.id));
    this._draw();
    this._onsessions(this.sessions);
  }

  _shown() {
    const sought = this._filter.value.trim().toLowerCase();
    if (!sought) return this.sessions;
    return this.sessions.filter((session) =>
      [titleOf(session), session.target, session.state, session.reason, session.id, session.command.join(" ")]
        .join(" ")
        .toLowerCase()
        .includes(sought),
    );
  }

  _draw() {
    const shown = this._shown();
    const keep = new Set(shown.map(({ id }) => id));
    for (const [id, row] of this._rows) {
      if (keep.has(id)) continue;
      row.node.remove();
      this._rows.delete(id);
    }
    let place = this._list.firstElementChild;
    for (const session of shown) {
      let row = this._rows.get(session.id);
      if (!row) {
        row = sessionRow(session.id);
        row.mark(session.id === this._selected);
        this._rows.set(session.id, row);
      }
      if (row.node === place) place = place.nextElementSibling;
      else this._list.insertBefore(row.node, place);
      row.update(session);
    }
    const counts = GRAVEST_FIRST.map((state) => [state, this.sessions.filter((each) => each.state === state).length]);
    setText($("session-counts"), counts.filter(([, n]) => n).map(([state, n]) => `${n} ${state}`).join(" · "));
    this._filter.parentElement.hidden = this.sessions.length < 6 && !this._filter.value;
    $("no-match").hidden = shown.length > 0 || this.sessions.length === 0;
  }
}

function sessionRow(id) {
  const name = h("span", { class: "name" });
  const state = h("span", { class: "state" });
  const reason = h("span", { class: "reason" });
  const target = h("span", { class: "target" });
  const since = h("span", { class: "age" });
  const link = h(
    "a",
    { href: `#/sessions/${encodeURIComponent(id)}`, class: "session-row" },
    h("span", { class: "first" }, h("span", { class: "dot" }), name, since),
    h("span", { class: "second" }, state, reason, target),
  );
  const node = h("li", { "data-id": id }, link);
  return {
    node,
    mark: (selected) => (selected ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")),
    update(session) {
      if (link.dataset.state !== session.state) link.dataset.state = session.state;
      setText(name, titleOf(session));
      setText(state, session.state);
      setText(reason, words(session.reason));
      setText(target, oneLine(session.target, 60));
      setText(since, age(Date.now() + skew - Date.parse(session.updated_at)));
    },
  };
}
