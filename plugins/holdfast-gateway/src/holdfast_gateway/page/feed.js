// A session's events as they come: one WebSocket, made again from the cursor whenever it is lost.

import { Problem, api, client } from "./api.js";

const RETRY_FIRST = 250; // ms; doubled up to the last
const RETRY_LAST = 5000;
const WATCH = 1000; // ms between two looks at a session that is stopped
const PAGE = 1000; // events asked for at once
const SILENT = 5000; // ms without an event that is known to be there: the connection is dead
const BACKLOG = 50_000; // frames not yet read; above, the socket is left and taken up again later
const BUDGET = 9; // ms of a frame for reading events
const BUDGET_BEHIND = 40; // ms, while more than BEHIND frames wait: the screen need not be smooth then
const BEHIND = 2000;

/**
 * Follows one session.
 *
 * A stream that is opened starts the session's worker if it is stopped. Nobody who looks at a
 * stopped session wants that, so such a session is read over REST until it runs again.
 *
 * Handlers: `events(list)`, `complete()` when the history is read, `lagged(resumeFrom)`,
 * `reset()` when the history is another one than before, `gone()` when the session was deleted,
 * `link(state, retryAt, why)` with state "connecting", "live", "watching" or "waiting".
 */
export class Feed {
  /** @param {number} after the cursor: the seq of the last event that is known */
  constructor(id, after, handlers) {
    this.id = id;
    this.cursor = after;
    this._handlers = handlers;
    this._socket = null;
    this._frames = [];
    this._next = 0;
    this._scheduled = false;
    this._closed = false;
    this._failures = 0;
    this._timer = 0;
    this._wake = () => {
      if (document.visibilityState === "visible" && this._waiting) this._retryNow();
    };
    addEventListener("online", this._wake);
    document.addEventListener("visibilitychange", this._wake);
    this._connect();
  }

  close() {
    this._closed = true;
    clearTimeout(this._timer);
    removeEventListener("online", this._wake);
    document.removeEventListener("visibilitychange", this._wake);
    this._socket?.close();
  }

  /** Look now, after something was done that may have started the worker. */
  poke() {
    if (this._watching || this._waiting) this._retryNow();
  }

  /**
   * The session has events up to `lastSeq`, as REST says. A connection over which they do not come
   * is dead, although nobody has told: a laptop slept, or a proxy forgot it.
   */
  heard(lastSeq) {
    const behind = this._socket && lastSeq > this.cursor && this._frames.length === this._next;
    if (!behind || this._behind?.cursor !== this.cursor) {
      this._behind = behind ? { cursor: this.cursor, since: Date.now() } : null;
    } else if (Date.now() - this._behind.since > SILENT) {
      this._behind = null;
      this._abandon();
      this._later();
    }
  }

  /** Drop the connection without waiting for the other side's word. */
  _abandon() {
    const socket = this._socket;
    this._socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  _retryNow() {
    clearTimeout(this._timer);
    this._failures = 0;
    this._connect();
  }

  async _connect() {
    this._waiting = this._watching = false;
    if (this._closed || this._connecting) return;
    this._connecting = true;
    this._handlers.link("connecting");
    try {
      // A refused handshake tells a page nothing, so what may refuse it is asked for first.
      const session = await api.session(this.id);
      if (this._closed) return;
      if (session.last_seq < this.cursor) this._restarted();
      if (session.state === "stopped") await this._read(session);
      else this._open();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 404) this._gone();
      else this._later();
    } finally {
      this._connecting = false;
    }
  }

  /** The gateway's history is behind ours: it is another one, and what we know means nothing. */
  _restarted() {
    this.cursor = 0;
    this._frames = [];
    this._next = 0;
    this._handlers.reset();
    if (!this._socket) return;
    this._abandon();
    this._later(); // and is taken up at 0
  }

  /** A stopped session's events, without starting it. */
  async _read(session) {
    while (this.cursor < session.last_seq && !this._closed) {
      const page = await api.events(this.id, { after: this.cursor, limit: PAGE, client });
      if (this._closed) return;
      if (page.lagged) this._handlers.lagged(page.lagged.resume_from);
      this._hand(page.events);
      if (page.next_after <= this.cursor && page.events.length === 0) break;
      this.cursor = Math.max(this.cursor, page.next_after);
    }
    if (this._closed) return;
    this._failures = 0;
    this._handlers.complete();
    this._handlers.link("watching");
    this._watching = true;
    this._timer = setTimeout(() => this._watch(), WATCH);
  }

  async _watch() {
    if (this._closed || !this._watching) return;
    try {
      const session = await api.session(this.id);
      if (this._closed || !this._watching) return;
      if (session.state === "stopped" && session.last_seq === this.cursor) {
        this._timer = setTimeout(() => this._watch(), document.hidden ? WATCH * 5 : WATCH);
        return;
      }
    } catch {
      // `_connect` meets it again, and tells
    }
    if (!this._closed && this._watching) this._connect();
  }

  _open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const query = `after=${this.cursor}&client=${client}&format=events`;
    const path = `/api/sessions/${encodeURIComponent(this.id)}/stream?${query}`;
    const socket = new WebSocket(`${scheme}//${location.host}${path}`);
    this._socket = socket;
    socket.onmessage = ({ data }) => {
      this._frames.push(data);
      if (this._frames.length - this._next > BACKLOG) socket.close(); // taken up at the cursor
      else this._schedule();
    };
    socket.onclose = ({ code }) => {
      if (this._socket !== socket) return;
      this._socket = null;
      this._drain(Infinity);
      if (this._closed) return;
      if (code === 4404) this._gone();
      else this._later(code === 4429 ? "Too many look at this session" : undefined);
    };
  }

  _later(why) {
    if (this._closed) return;
    const delay = Math.min(RETRY_FIRST * 2 ** this._failures, RETRY_LAST) * (0.75 + Math.random() / 2);
    this._failures += 1;
    this._waiting = true;
    this._handlers.link("waiting", Date.now() + delay, why);
    this._timer = setTimeout(() => this._connect(), delay);
  }

  _gone() {
    this.close();
    this._handlers.gone();
  }

  /** Read once per frame of the screen; where nothing is drawn, by a timer. */
  _schedule() {
    if (this._scheduled) return;
    this._scheduled = true;
    const run = (budget) => {
      this._scheduled = false;
      this._drain(budget);
      if (this._next < this._frames.length) this._schedule();
    };
    if (document.hidden) setTimeout(() => run(200), 100);
    else requestAnimationFrame(() => run(this._frames.length - this._next > BEHIND ? BUDGET_BEHIND : BUDGET));
  }

  _drain(budget) {
    const end = performance.now() + budget;
    const events = [];
    let complete = null;
    while (this._next < this._frames.length) {
      const { method, params } = JSON.parse(this._frames[this._next]);
      this._next += 1;
      if (method === "session_event") {
        events.push(params);
      } else if (method === "history_complete") {
        complete = params.last_seq;
        break;
      } else if (method === "session_lagged") {
        this._hand(events.splice(0));
        if (params.resume_from <= this.cursor) this._restarted();
        else this._handlers.lagged(params.resume_from);
      }
      if (events.length % 64 === 0 && performance.now() > end) break;
    }
    if (this._next > 4096 || this._next === this._frames.length) {
      this._frames.splice(0, this._next);
      this._next = 0;
    }
    this._hand(events);
    if (complete !== null) {
      this.cursor = Math.max(this.cursor, complete); // answers to others count, and do not come
      this._failures = 0;
      this._handlers.complete();
      if (this._socket) this._handlers.link("live");
      if (budget === Infinity) this._drain(budget);
    }
  }

  /** Give on what is new; what was seen before is left out. */
  _hand(events) {
    const fresh = events.filter((event) => event.seq > this.cursor);
    if (fresh.length === 0) return;
    this.cursor = fresh[fresh.length - 1].seq;
    this._handlers.events(fresh);
  }
}
