// The prompt box: what can be sent depends on the worker's dialect.

import { Problem, api, client, requestId } from "./api.js";
import { h, setText } from "./dom.js";
import { parseJson, unfold } from "./text.js";

/* What each dialect offers. `prompt` makes a message of a text; `templates` are raw messages to
   begin with. `ready` says why there can be no prompt yet. */
const rpc = (fields) => JSON.stringify({ jsonrpc: "2.0", ...fields });
const METHOD = { name: "method", label: "Method" };
const RAW = { name: "raw", label: "Raw JSON" };

const DIALECTS = {
  "kimi-wire": {
    modes: [{ name: "prompt", label: "Prompt" }, RAW],
    prompt: (text, id) => rpc({ id, method: "prompt", params: { user_input: text } }),
    cancel: ({ id }) => rpc({ id, method: "cancel" }),
    exclusive: true,
  },
  acp: {
    modes: [{ name: "prompt", label: "Prompt" }, RAW],
    prompt: (text, id, { sessionId }) =>
      rpc({ id, method: "session/prompt", params: { sessionId, prompt: [{ type: "text", text }] } }),
    ready: ({ sessionId }) =>
      sessionId ? null : "An ACP agent needs a handshake first: send “initialize”, then “session/new” (Raw JSON).",
    templates: {
      initialize: (id) => rpc({ id, method: "initialize", params: { protocolVersion: 1, clientCapabilities: {} } }),
      "session/new": (id, { cwd }) => rpc({ id, method: "session/new", params: { cwd: cwd || "/", mcpServers: [] } }),
    },
    cancel: ({ sessionId }) => sessionId && rpc({ method: "session/cancel", params: { sessionId } }),
    exclusive: true,
  },
  mcp: {
    modes: [METHOD, RAW],
    templates: {
      initialize: (id) =>
        rpc({
          id,
          method: "initialize",
          params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "holdfast", version: "0" } },
        }),
      "notifications/initialized": () => rpc({ method: "notifications/initialized" }),
      "tools/list": (id) => rpc({ id, method: "tools/list" }),
    },
    cancel: ({ pending }) => pending && rpc({ method: "notifications/cancelled", params: { requestId: pending } }),
  },
  jsonrpc: {
    modes: [METHOD, RAW],
    cancel: ({ pending }) => pending && rpc({ method: "$/cancelRequest", params: { id: pending } }),
  },
  lsp: {
    modes: [METHOD, RAW],
    templates: {
      initialize: (id) => rpc({ id, method: "initialize", params: { processId: null, rootUri: null, capabilities: {} } }),
      initialized: () => rpc({ method: "initialized", params: {} }),
    },
    cancel: ({ pending }) => pending && rpc({ method: "$/cancelRequest", params: { id: pending } }),
  },
  lines: { modes: [{ name: "lines", label: "Line" }] },
};

const PLACEHOLDERS = {
  prompt: "Ask the worker something…",
  method: 'Parameters as JSON, such as {"path": "/tmp"}; may be empty',
  raw: '{"jsonrpc": "2.0", "method": …}',
  lines: "A line for the worker’s stdin",
};

export class Composer {
  /**
   * @param {object} session as the gateway gives it
   * @param {() => {sessionId: string|null, live: boolean, status: object}} now what is known
   */
  constructor(session, now) {
    this._session = session;
    this._now = now;
    this._dialect = DIALECTS[session.dialect] ?? DIALECTS.jsonrpc;
    this._mode = this._dialect.modes[0].name;
    this.asked = new Map(); // our prompts by id: one that is refused is in no event
    this._pending = new Set(); // those without an answer
    this._build();
    this.refresh();
  }

  focus() {
    (this._mode === "method" ? this._method : this._text).focus();
  }

  /** What cancels what is running, or null if this dialect has no such message. */
  cancelMessage() {
    const pending = [...this._pending].pop();
    return this._dialect.cancel?.({ id: requestId(), sessionId: this._now().sessionId, pending }) || null;
  }

  /** A request of ours was answered. */
  settled(id) {
    this._pending.delete(id);
  }

  /** Put a raw message into the box, to be completed by hand. */
  draft(message) {
    this._choose("raw");
    this._text.value = message;
    this._fit();
    this._text.focus();
  }

  /** Send a line; what came of it stands below the box. */
  async send(line, { question } = {}) {
    const message = this._session.dialect === "lines" ? undefined : parseJson(line);
    if (message?.method !== undefined && message.id !== undefined) {
      this._pending.add(message.id);
      if (question) this.asked.set(message.id, question);
      if (this.asked.size > 50) this.asked.delete(this.asked.keys().next().value);
    }
    try {
      const receipt = await api.send(this._session.id, line, client, message !== undefined);
      if (receipt.delivery === "written") this._say("");
      else if (receipt.delivery === "refused") this._say("Refused: not a byte of it reached the worker.", true);
      else this._say("Nobody can say how much of it reached the worker.", true);
      return receipt.delivery !== "refused";
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this._pending.delete(message?.id);
      this._say(error.text, true);
      return false;
    }
  }

  /** Draw what depends on the session's state. */
  refresh() {
    const { status, live, sessionId } = this._now();
    const notReady = this._mode === "prompt" ? (this._dialect.ready?.({ sessionId }) ?? null) : null;
    const busy = live && status.state === "busy" && this._dialect.exclusive && this._mode === "prompt";
    this._submit.disabled = notReady !== null || busy;
    let hint = "";
    if (notReady) hint = notReady;
    else if (busy) hint = "The worker is answering; it takes one prompt at a time.";
    else if (status.state === "error" || status.state === "stopped") {
      hint = ["kimi-wire", "jsonrpc"].includes(this._session.dialect)
        ? status.state === "error" ? "The next one starts a new worker." : "Restart it first, to have a worker again."
        : "Restart it first: this dialect’s worker needs its client’s first messages again.";
      if (status.state === "stopped" && status.reason === "process_exit" && hint.startsWith("Restart it first, to")) {
        hint = "The next one starts a new worker.";
      }
    }
    setText(this._hint, hint);
  }

  _build() {
    this._modes = h(
      "div",
      { class: "modes", role: "group", "aria-label": "What to send" },
      this._dialect.modes.map(({ name, label }) =>
        h("button", { type: "button", "data-mode": name, onclick: () => this._choose(name, true) }, label),
      ),
    );
    this._modes.hidden = this._dialect.modes.length < 2;
    this._templates = h(
      "div",
      { class: "templates" },
      Object.entries(this._dialect.templates ?? {}).map(([name, make]) =>
        h("button", { type: "button", class: "chip", onclick: () => this.draft(make(requestId(), this._session)) }, name),
      ),
    );
    this._method = h("input", { class: "mono", "aria-label": "Method", placeholder: "method", autocomplete: "off", spellcheck: "false" });
    this._notify = h("input", { type: "checkbox" });
    this._methodRow = h(
      "div",
      { class: "row method-row" },
      this._method,
      h("label", { class: "check" }, this._notify, "notification"),
    );
    this._text = h("textarea", { rows: "1", "aria-label": "Message", autocomplete: "off" });
    this._submit = h("button", { class: "button primary", type: "submit" }, "Send");
    this._hint = h("span", { class: "hint", id: "composer-hint" });
    this._receipt = h("span", { class: "receipt", role: "status" });
    this.node = h(
      "form",
      { class: "composer" },
      h("div", { class: "row between" }, this._modes, this._templates),
      this._methodRow,
      h("div", { class: "box" }, this._text, this._submit),
      h("div", { class: "row between below" }, this._hint, this._receipt),
    );
    this._text.setAttribute("aria-describedby", "composer-hint");
    this._text.addEventListener("input", () => this._fit());
    this._text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      const several = this._mode === "raw" || this._mode === "method";
      if (event.shiftKey || (several && !event.ctrlKey && !event.metaKey && this._text.value.includes("\n"))) return;
      event.preventDefault();
      this.node.requestSubmit();
    });
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      this._submitted();
    });
    this._choose(this._mode);
  }

  _choose(mode, focus = false) {
    this._mode = mode;
    for (const button of this._modes.children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    this._methodRow.hidden = mode !== "method";
    this._templates.hidden = mode !== "raw";
    this._text.placeholder = PLACEHOLDERS[mode];
    this._text.classList.toggle("mono", mode !== "prompt");
    this._text.spellcheck = mode === "prompt";
    this._say?.("");
    if (this._receipt) this.refresh();
    if (focus) this.focus();
  }

  async _submitted() {
    const text = this._text.value;
    const lines = this._messages(text);
    if (lines === null || this._submit.disabled) return;
    this._text.value = "";
    this._fit();
    for (const line of lines) {
      const done = await this.send(line, { question: this._mode === "prompt" ? text : undefined });
      if (done) continue;
      // A refused text comes back, if nothing was written meanwhile; it may be sent again.
      if (!this._text.value) this._text.value = text;
      this._fit();
      return;
    }
  }

  /** The lines to send, or null with a word of what is wrong. */
  _messages(text) {
    if (this._mode === "lines") return text.split("\n");
    if (this._mode === "prompt") {
      if (!text.trim()) return null;
      return [this._dialect.prompt(text, requestId(), this._now())];
    }
    const json = unfold(text);
    if (this._mode === "method") {
      const method = this._method.value.trim();
      if (!method) return this._wrong("It needs a method.");
      if (json && parseJson(json) === undefined) return this._wrong("The parameters are no JSON.");
      const id = this._notify.checked ? "" : `"id":${JSON.stringify(requestId())},`;
      const params = json ? `,"params":${json}` : "";
      return [`{"jsonrpc":"2.0",${id}"method":${JSON.stringify(method)}${params}}`];
    }
    if (parseJson(json) === undefined) return this._wrong(jsonError(json));
    return [json];
  }

  _wrong(text) {
    this._say(text, true);
    return null;
  }

  _say(text, bad = false) {
    if (!this._receipt) return;
    this._receipt.classList.toggle("bad", bad);
    setText(this._receipt, text);
  }

  _fit() {
    this._text.style.height = "auto";
    this._text.style.height = `${Math.min(this._text.scrollHeight + 2, 220)}px`;
  }
}

function jsonError(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `That is no JSON: ${error.message}.`;
  }
}
