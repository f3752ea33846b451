// What is known of a session beside what it said: its facts, its stderr; and the demo's hints.

import { skew } from "./api.js";
import { h, setText } from "./dom.js";
import { clock, duration, exitText, quoteArgv, visible, visibleText, words } from "./text.js";

const when = (time) => `${time.toLocaleDateString()}, ${clock(time)}`;

export class Details {
  constructor() {
    this._facts = h("dl", { class: "facts wide" });
    this._stderr = h("pre", { class: "output stderr", tabindex: "0", "aria-label": "End of stderr" });
    this.node = h(
      "aside",
      { class: "inspector", id: "panel-details", "aria-label": "Details" },
      h("section", {}, h("h2", {}, "Status"), this._facts),
      h("section", { class: "stderr-box" }, h("h2", {}, "stderr", h("span", { class: "hint" }, "its end")), this._stderr),
    );
  }

  draw(status, session, cursor) {
    const updated = new Date(status.updated_at);
    const rows = [
      ["state", `${status.state} · ${words(status.reason)}`],
      ["since", `${clock(updated)} (${duration(Date.now() + skew - updated)})`],
      ["detail", status.detail],
      ["cause", words(status.cause)],
      ["worker", [status.worker_id, words(status.worker)].filter(Boolean).join(" · ")],
      ["exit", exitText(status.exit)],
      ["in flight", session.in_flight ? String(session.in_flight) : null],
      ["command", quoteArgv(session.command)],
      ["dialect", session.dialect],
      ["directory", session.cwd],
      ["environment", session.env?.join(", ")],
      ["kept", session.durability === "memory" ? `in memory only${session.durability_detail ? `: ${session.durability_detail}` : ""}` : session.durability],
      ["events", `${session.first_seq || 0} to ${Math.max(session.last_seq, cursor)}`],
      ["created", when(new Date(session.created_at))],
      ["id", session.id],
    ].filter(([, value]) => value);
    const known = [...this._facts.children];
    if (known.length !== rows.length || rows.some(([name], i) => known[i].firstChild.textContent !== name)) {
      this._facts.replaceChildren(...rows.map(([name]) => h("div", {}, h("dt", {}, name), h("dd", {}))));
    }
    rows.forEach(([, value], i) => setText(this._facts.children[i].lastChild, visible(value)));
  }

  drawStderr(text) {
    if (text === this._drawn) return;
    this._drawn = text;
    const box = this._stderr;
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    box.replaceChildren(visibleText(text));
    if (atEnd) box.scrollTop = box.scrollHeight;
    this.node.classList.toggle("has-stderr", text !== "");
  }
}

/** What to try in the demo, ticked off as it happens. */
export function guide() {
  const steps = ["Send a prompt", "Kill the worker while it answers", "Read what is said of it", "Send another prompt: it recovers"];
  const items = steps.map((text) => h("li", {}, text));
  const node = h(
    "div",
    { class: "guide" },
    h("strong", {}, "Try it"),
    h("ol", {}, items),
    h("button", { class: "icon-button", "aria-label": "Close these hints", onclick: () => node.remove() }, "✕"),
  );
  const update = (model, status) => {
    const prompted = model.entries.some(({ type }) => type === "user");
    const lost = model.statuses.find(({ state }) => state === "error");
    const back = lost !== undefined && status.seq > lost.seq && ["idle", "busy"].includes(status.state);
    [prompted, lost, lost, back].forEach((done, i) => items[i].classList.toggle("done", Boolean(done)));
  };
  return { node, update };
}
