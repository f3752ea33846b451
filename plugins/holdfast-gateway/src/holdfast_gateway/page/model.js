// A session's events as what a person reads: entries, in order, each made of one event or several.

import { contentText, describeLine, describeSent } from "./describe.js";
import { base64ToVisible, parseJson } from "./text.js";

const PIECES = 2000; // events in one entry; more begin another, so that no entry grows for ever
const LENGTH = 48_000; // characters in one entry, likewise
const STATUSES = 4000; // as many as the timeline holds
const STDERR = 64 * 1024; // characters of stderr, as holdfast keeps of it

/** The text of an event; bytes that are no UTF-8 with their values written out. */
export function eventText(event) {
  if (event.text !== undefined) return event.text;
  if (event.base64 !== undefined) return base64ToVisible(event.base64);
  if (event.head_text !== undefined) return event.head_text;
  if (event.head_base64 !== undefined) return base64ToVisible(event.head_base64);
  return "";
}

/** Towards the worker an id holds its client's name; our own are read back here. */
export function ownId(id, client) {
  if (typeof id !== "string" || !id.startsWith(client + ":")) return id;
  const own = parseJson(id.slice(client.length + 1));
  return own === undefined ? id : own;
}

const key = (id) => JSON.stringify(id);

/**
 * Entries have {seq, last, type, events, version} and what their type shows. `version` grows when
 * one changes, `changed` holds those that changed since it was last emptied.
 */
export class Model {
  constructor(client) {
    this.client = client;
    this.reset();
  }

  reset() {
    this.events = [];
    this.entries = [];
    this.statuses = [];
    this.stderr = ""; // its tail
    this.changed = new Set();
    this.acpSession = null;
    this._requests = new Map(); // our requests: what was asked
    this._tools = new Map();
    this._asks = new Map(); // the worker's requests that are open
    this._echo = null;
    this._since = null; // when the session became busy
  }

  /** The seq of the first event held. */
  get first() {
    return this.events.length ? this.events[0].seq : 0;
  }

  push(event) {
    this.events.push(event);
    switch (event.event) {
      case "line":
        return this._line(event);
      case "sent":
        return this._sent(event);
      case "status_changed":
        return this._status(event);
      case "stderr":
        // Kept apart: a worker that logs while it speaks would have its speech in pieces.
        this.stderr = (this.stderr + eventText(event)).slice(-STDERR);
        return null;
      case "line_too_long":
        return this._add(event, "too-long", { size: event.size, text: eventText(event) });
      case "gap": // not the gateway's: it says that what lay between is not kept any more
        return this._add(event, "gap", { from: event.from, to: event.to });
      default:
        return this._add(event, "json", { value: event });
    }
  }

  /** Take what came before; all is read again, since what belongs together may have been parted. */
  prepend(events) {
    const all = [...events, ...this.events];
    this.reset();
    for (const event of all) this.push(event);
    this.changed.clear();
  }

  /**
   * Keep about the last `most` events.
   * @returns {{entries: number, events: number}} how many were dropped
   */
  trim(most) {
    const none = { entries: 0, events: 0 };
    if (this.statuses.length > STATUSES * 1.25) this.statuses.splice(0, this.statuses.length - STATUSES);
    if (this.events.length <= most * 1.25) return none; // seldom, and many at once
    const oldest = this.events[this.events.length - most].seq;
    let n = 0;
    while (n < this.entries.length - 1 && this.entries[n].last < oldest) n += 1;
    if (n === 0) return none;
    for (const entry of this.entries.splice(0, n)) this.changed.delete(entry);
    const first = this.entries[0].seq;
    const events = this.events.findIndex((event) => event.seq >= first);
    this.events.splice(0, events);
    // What the dropped entries had begun is not looked for any more.
    for (const map of [this._tools, this._asks]) {
      for (const [name, entry] of map) if (entry.seq < first) map.delete(name);
    }
    for (const [name, { seq }] of this._requests) if (seq < first) this._requests.delete(name);
    return { entries: n, events };
  }

  // -- one event ------------------------------------------------------------------------------

  _add(event, type, fields) {
    const entry = { seq: event.seq, last: event.seq, type, events: [event], version: 0, ...fields };
    this.entries.push(entry);
    return entry;
  }

  _grow(entry, event) {
    entry.events.push(event);
    entry.last = event.seq;
    entry.version += 1;
    this.changed.add(entry);
  }

  /** Add a text to the last entry if it is of the same type, else begin one. */
  _joined(event, type, text, fields = {}, separator = "") {
    const last = this.entries[this.entries.length - 1];
    if (last?.type === type && last.events.length < PIECES && last.text.length < LENGTH) {
      last.text += separator + text;
      this._grow(last, event);
      return last;
    }
    return this._add(event, type, { text, ...fields });
  }

  _line(event) {
    const message = event.kind === "opaque" && !/^\s*[[{"\d]/.test(event.text ?? "")
      ? undefined
      : parseJson(event.text ?? "");
    if (event.kind === "answer") return this._answer(event, message ?? {});
    const said = describeLine(message);
    switch (said.as) {
      case "text":
        return this._joined(event, said.thought ? "thought" : "text", said.text);
      case "output": {
        const text = eventText(event).replace(/\r$/, "");
        return this._joined(event, "output", text, {}, "\n");
      }
      case "tool":
        return this._tool(event, said);
      case "ask": {
        const entry = this._add(event, "ask", { ...said, id: event.id ?? message.id, answered: null });
        this._asks.set(key(entry.id), entry);
        return entry;
      }
      case "quiet":
        return this._quiet(event, said);
      default:
        return this._add(event, said.as, said);
    }
  }

  /** What stands elsewhere already goes to the entry before it, for the raw view. */
  _quiet(event, said) {
    const last = this.entries[this.entries.length - 1];
    const echo = said.echo === undefined ? null : contentText(said.echo);
    if (echo !== null && echo !== this._echo) return this._add(event, "user", { text: echo });
    if (last && last.type !== "status" && last.type !== "turn") {
      this._grow(last, event);
      return last;
    }
    return this._add(event, "hidden", {});
  }

  _tool(event, said) {
    let entry = said.key === null ? this._lastTool : this._tools.get(said.key);
    if (!entry || entry.events.length >= PIECES) {
      const title = said.title ?? "tool";
      entry = this._add(event, "tool", { title, input: "", output: "", status: "", failed: false });
      if (said.key) this._tools.set(said.key, entry);
    } else {
      this._grow(entry, event);
    }
    this._lastTool = entry;
    for (const name of ["title", "input", "output", "status", "failed"]) {
      if (said[name] !== undefined) entry[name] = said[name];
    }
    if (said.more !== undefined && entry.input.length < LENGTH) entry.input += said.more;
    return entry;
  }

  _sent(event) {
    const message = parseJson(event.text ?? "");
    const said = describeSent(message);
    const id = ownId(event.id, this.client);
    const own = event.client === this.client || id !== event.id;
    const other = own || !event.client ? null : event.client;
    if (event.kind === "answer") {
      const entry = this._asks.get(key(event.id));
      if (entry) {
        entry.answered = { value: message?.error ?? message?.result, other };
        this._asks.delete(key(event.id));
        this._grow(entry, event);
        return entry;
      }
    }
    if (typeof message?.params?.sessionId === "string") this.acpSession = message.params.sessionId;
    if (said.as === "user") this._echo = said.text;
    const type = said.as === "output" ? "input" : said.as;
    const text = said.text ?? eventText(event);
    const entry =
      type === "input"
        ? this._joined(event, "input", text, { other }, "\n")
        : this._add(event, type, { ...said, text, id, other });
    if (event.kind === "request" && own) {
      this._requests.set(key(id), { seq: event.seq, method: message?.method, entry });
    }
    return entry;
  }

  _answer(event, message) {
    const id = ownId(event.id, this.client);
    const asked = this._requests.get(key(id));
    this._requests.delete(key(id));
    if (typeof message.result?.sessionId === "string") this.acpSession = message.result.sessionId;
    const holdfast = event.origin === "holdfast";
    const fields = { id, method: asked?.method, holdfast, question: asked?.entry.type === "user" };
    if (fields.question) fields.asked = asked.entry.text;
    if (message.error !== undefined && message.error !== null) {
      return this._add(event, "error", { ...fields, error: message.error });
    }
    return this._add(event, "answer", { ...fields, value: message.result });
  }

  _status(event) {
    const { status } = event;
    const last = this.statuses[this.statuses.length - 1];
    // When the exit becomes known later, a status like the last one adds it.
    const amends =
      last !== undefined && status.state === "error" && last.state === "error" &&
      last.worker_id === status.worker_id && last.reason === status.reason;
    this.statuses.push(status);
    const fields = { status, amends, previous: last ?? null };
    const at = Date.parse(status.updated_at);
    const before = this.entries[this.entries.length - 1];
    if (status.state === "busy") {
      this._since = at;
    } else if (last?.state === "busy" && this._since !== null && before?.question) {
      before.took = at - this._since;
      before.version += 1;
      this.changed.add(before);
    }
    // Busy and idle by turns are seen in the timeline; here they would only part the messages.
    const usual = ["prompt", "prompt_complete", "prompt_error"].includes(status.reason);
    return this._add(event, usual ? "turn" : "status", fields);
  }
}
