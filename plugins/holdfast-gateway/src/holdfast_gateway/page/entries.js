// How one entry of the transcript looks, and one event of the raw view.

import { h, icon } from "./dom.js";
import { eventText } from "./model.js";
import {
  bytes, clock, compact, cut, duration, exitText, splitsCharacter, visible, visibleText, words,
} from "./text.js";

const SHOWN = 100_000; // characters of one text that are shown at once
const EVENTS = 200; // events of one entry in its raw view

/** A text that only ever grows is not drawn anew for each piece. */
function growing(node, entry, name) {
  let drawn = "";
  return () => {
    const text = cut(entry[name], SHOWN);
    if (text.startsWith(drawn) && !splitsCharacter(drawn, text.slice(drawn.length))) {
      node.append(visibleText(text.slice(drawn.length)));
    } else {
      node.replaceChildren(visibleText(text));
    }
    drawn = text;
  };
}

function pretty(value) {
  const text = typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
  return h("pre", { class: "code", tabindex: "0" }, visibleText(cut(text, SHOWN)));
}

/** One line that opens to the whole value. */
function folded(title, value, { hint, open = false } = {}) {
  const summary = h("summary", {}, title, hint && h("span", { class: "hint" }, visibleText(hint)));
  const box = h("details", { class: "fold", open }, summary);
  const build = () => {
    if (box.open && box.children.length === 1) box.append(pretty(value));
  };
  box.addEventListener("toggle", build);
  build();
  return box;
}

const label = (text, extra = "") => h("span", { class: `label ${extra}` }, text);

function heading(name, entry, extra) {
  return h(
    "div",
    { class: "entry-head" },
    label(name),
    extra,
    entry.other && h("span", { class: "hint" }, `sent by ${visible(entry.other)}`),
  );
}

/** The one-line form of JSON-RPC things: a mark, a method, a summary of the value. */
function line(mark, entry, value = entry.value) {
  const hint = entry.text !== undefined ? compact(entry.text, 240) : value === undefined ? "" : compact(value);
  const title = [h("span", { class: "mark" }, mark), h("code", {}, visibleText(entry.title ?? ""))];
  if (value === undefined) return h("div", { class: "fold flat" }, title);
  const other = entry.other && h("span", { class: "hint" }, ` by ${visible(entry.other)}`);
  return folded([title, other], value, { hint });
}

const BUILD = {
  user(entry, body) {
    const text = h("div", { class: "prose", dir: "auto" });
    const draw = growing(text, entry, "text");
    body.append(heading("Prompt", entry), text);
    return draw;
  },
  text(entry, body) {
    const text = h("div", { class: "prose", dir: "auto" });
    body.append(text);
    return growing(text, entry, "text");
  },
  thought(entry, body) {
    const text = h("div", { class: "prose", dir: "auto" });
    body.append(heading("Thinking", entry), text);
    return growing(text, entry, "text");
  },
  output(entry, body) {
    const text = h("pre", { class: "output" });
    body.append(text);
    return growing(text, entry, "text");
  },
  input(entry, body) {
    const text = h("pre", { class: "output" });
    body.append(heading("Sent", entry), text);
    return growing(text, entry, "text");
  },
  tool(entry, body) {
    const state = h("span", { class: "tool-state" });
    const name = h("code", {});
    const hint = h("span", { class: "hint" });
    const input = h("pre", { class: "code", tabindex: "0" });
    const output = h("pre", { class: "code", tabindex: "0" });
    const details = h("details", { class: "fold" }, h("summary", {}, state, name, hint), input, output);
    body.append(details);
    const draw = () => {
      name.replaceChildren(visibleText(cut(String(entry.title), 200)));
      hint.replaceChildren(visibleText(compact(entry.input || entry.output)));
      state.textContent = entry.status || "called";
      state.classList.toggle("bad", entry.failed);
      input.hidden = !entry.input;
      output.hidden = !entry.output;
      if (!details.open) return;
      input.replaceChildren(visibleText(cut(entry.input, SHOWN)));
      output.replaceChildren(visibleText(cut(entry.output, SHOWN)));
    };
    details.addEventListener("toggle", draw);
    return draw;
  },
  ask(entry, body, { reply }) {
    const actions = h("div", { class: "row" });
    body.append(
      h("div", { class: "entry-head" }, label("Asked by the worker", "ask"), h("code", {}, visibleText(entry.title))),
      entry.text ? h("div", { class: "prose" }, visibleText(entry.text)) : "",
      entry.value === undefined ? "" : folded("parameters", entry.value, { hint: compact(entry.value, 100) }),
      actions,
    );
    return () => {
      if (entry.answered) {
        const who = entry.answered.other ? ` by ${visible(entry.answered.other)}` : "";
        actions.replaceChildren(
          h("span", { class: "hint" }, `answered${who}: ${compact(entry.answered.value, 120)}`),
        );
        return;
      }
      const choices = (entry.choices ?? []).map(({ label: text, result }) =>
        h("button", { class: "button small", onclick: () => reply(entry, result) }, visible(text)),
      );
      const other = h("button", { class: "button small", onclick: () => reply(entry) }, "Reply with JSON…");
      actions.replaceChildren(...choices, other);
    };
  },
  request(entry, body) {
    body.append(line("→", entry));
    return () => {};
  },
  note(entry, body) {
    body.append(line("·", entry));
    return () => {};
  },
  json(entry, body) {
    body.append(folded(h("span", { class: "mark" }, "{}"), entry.value, { hint: compact(entry.value) }));
    return () => {};
  },
  answer(entry, body) {
    const value = entry.value;
    const end = value?.status ?? value?.stopReason;
    const status = entry.question && typeof end === "string" ? words(end) : null;
    const took = h("span", { class: "hint" });
    const method = entry.question ? "" : entry.method;
    const title = status
      ? [h("span", { class: "mark good" }, "✓"), h("span", {}, visibleText(status)), took]
      : [h("span", { class: "mark good" }, "←"), h("code", {}, visibleText(String(method || entry.id))), took];
    body.append(folded(title, value, { hint: status ? "" : compact(value) }));
    return () => (took.textContent = entry.took === undefined ? "" : ` after ${duration(entry.took)}`);
  },
  error(entry, body, { question }) {
    const { code, message, data } = typeof entry.error === "object" ? entry.error : { message: entry.error };
    const who = entry.holdfast
      ? label("holdfast, in the worker’s place", "holdfast")
      : label("error from the worker", "bad");
    const asked = question(entry);
    const took = h("span", { class: "hint" });
    const facts = [
      ["code", code],
      ["reason", words(data?.reason)],
      ["cause", words(data?.cause)],
      ["delivery", delivery(data?.delivery)],
      ["request", entry.method ? `${entry.method} ${JSON.stringify(entry.id)}` : JSON.stringify(entry.id)],
    ].filter(([, value]) => value !== undefined && value !== "" && value !== null);
    body.append(
      h("div", { class: "entry-head" }, who, took),
      h("div", { class: "error-text" }, visibleText(String(message ?? "no message"))),
      asked ? h("div", { class: "hint" }, "asked: ", visibleText(compact(asked, 160))) : "",
      h(
        "dl",
        { class: "facts" },
        facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, visibleText(String(value))))),
      ),
    );
    return () => (took.textContent = entry.took === undefined ? "" : `after ${duration(entry.took)}`);
  },
  status(entry, body) {
    const { status } = entry;
    const parts = [
      h("span", { class: "dot" }),
      h("strong", {}, status.state),
      h("span", {}, words(status.reason)),
      h("span", { class: "hint" }, visibleText(statusText(status))),
      h("time", { class: "hint", datetime: status.updated_at }, clock(new Date(status.updated_at))),
    ];
    body.dataset.state = status.state;
    body.append(...parts);
    return () => {};
  },
  gap(entry, body) {
    body.append(h("span", { class: "hint" }, gapText(entry)));
    return () => {};
  },
  "too-long"(entry, body) {
    body.append(
      h("div", { class: "entry-head" }, label("Line too long", "bad"), h("span", { class: "hint" }, `${bytes(entry.size)}, dropped; it began with`)),
      h("pre", { class: "output" }, visibleText(cut(entry.text, 400))),
    );
    return () => {};
  },
};

const gapText = ({ from, to }) => `nothing is kept between the events ${from - 1} and ${to + 1}`;

function delivery(name) {
  return {
    refused: "refused: not a byte reached the worker, sending it again is safe",
    written: "written: the worker may have done it",
    unknown: "unknown: a part of it may have reached the worker",
  }[name] ?? name;
}

/** What a status says beyond its state and reason. */
export function statusText(status) {
  const parts = [
    status.detail,
    status.cause && `cause: ${words(status.cause)}`,
    status.worker && `worker: ${words(status.worker)}`,
    status.exit && !status.detail?.includes(exitText(status.exit)) && exitText(status.exit),
  ];
  return parts.filter(Boolean).join(" · ");
}

const SILENT = new Set(["turn", "hidden"]);

/** The node of an entry, and what draws it again when the entry has grown. */
export function entryView(entry, tools) {
  const node = h("article", { class: `entry ${entry.type}`, "data-seq": entry.seq });
  if (entry.type === "error" && entry.holdfast) node.classList.add("by-holdfast");
  if (SILENT.has(entry.type)) {
    node.hidden = true;
    return { node, update() {} };
  }
  const body = h("div", { class: "entry-body" });
  node.append(body);
  const draw = (BUILD[entry.type] ?? BUILD.json)(entry, body, tools);
  draw();
  if (entry.type !== "gap") node.append(rawButton(entry, node));
  return { node, update: draw };
}

function rawButton(entry, node) {
  let raw = null;
  const button = h(
    "button",
    { class: "raw-button", "aria-expanded": "false", "aria-label": `Raw events, from ${entry.seq}`, title: "Raw" },
    icon("braces"),
  );
  button.addEventListener("click", () => {
    if (raw) {
      raw.remove();
      raw = null;
    } else {
      raw = h("div", { class: "raw" }, entry.events.slice(-EVENTS).map((event) => rawView(event).node));
      node.append(raw);
    }
    button.setAttribute("aria-expanded", String(raw !== null));
  });
  return button;
}

// -- raw -----------------------------------------------------------------------------------------

const MARKS = { line: "←", sent: "→", status_changed: "●", stderr: "!", line_too_long: "✂", gap: "…" };

/** One event as it came. */
export function rawView(event) {
  let text = eventText(event);
  if (event.event === "status_changed") text = JSON.stringify(event.status);
  if (event.event === "gap") text = gapText(event);
  const tags = [
    event.origin === "holdfast" && "holdfast",
    event.terminated === false && "cut",
    event.base64 !== undefined && "not UTF-8",
    event.event === "sent" && event.client,
    event.event === "stderr" && "stderr",
    event.event === "line_too_long" && `${bytes(event.size)}, dropped`,
  ].filter(Boolean);
  const node = h(
    "div",
    { class: `raw-event ${event.event}` },
    h("span", { class: "seq" }, event.event === "gap" ? "" : String(event.seq)),
    h("span", { class: "mark", "aria-label": words(event.event), role: "img" }, MARKS[event.event] ?? "?"),
    h("span", { class: "raw-text" }, tags.map((tag) => label(visible(tag))), visibleText(cut(text, SHOWN))),
  );
  return { node, update() {} };
}
