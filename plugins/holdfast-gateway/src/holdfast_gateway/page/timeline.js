// The states of a session over time, drawn.

import { skew } from "./api.js";
import { h, svg } from "./dom.js";
import { clock, duration, exitText, visible, words } from "./text.js";

const HEIGHT = 62; // px: generation marks, bars, axis
const BASE = 44; // where bars stand
// Heights tell the states apart where colours do not.
const TALL = { stopped: 3, idle: 12, restarting: 20, busy: 28, error: 28 };
const GRAVE = ["stopped", "idle", "restarting", "busy", "error"];
const NARROW = 3; // px; what is narrower is drawn together with its neighbours
const EDGE = 6; // px left free on both sides
const MOST = 4000; // statuses
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
const ZOOMS = [["All", Infinity], ["1 h", 3600e3], ["10 min", 600e3], ["1 min", 60e3]];

const SAID = {
  start: "the worker runs",
  prompt: "a request is being answered",
  prompt_complete: "the request was answered",
  prompt_error: "the request was answered with an error",
  process_exit: "the worker is over",
  read_loop_error: "its output could not be read",
  stdin_broken: "the transport broke",
  restart: "a new worker",
  stop: "stopped by us",
  initialization_failed: "the worker could not be started",
  config_update: "its configuration changed",
};

export class Timeline {
  /** @param {(seq: number) => void} onpick a status was chosen; its seq */
  constructor(onpick) {
    this._onpick = onpick;
    this._segments = [];
    this._buckets = [];
    this._span = Infinity;
    this._at = -1; // the bucket that holds the tab stop, by the seq of its first segment
    this._svg = svg("svg", { class: "picture", height: HEIGHT, role: "group", "aria-label": "States over time; arrow keys go through them" });
    this._tip = h("div", { class: "tip", hidden: true });
    this._zoom = h(
      "div",
      { class: "zoom", role: "group", "aria-label": "Time shown" },
      ZOOMS.map(([name, span]) =>
        h("button", { "aria-pressed": String(span === Infinity), onclick: (e) => this._zoomTo(span, e.target) }, name),
      ),
    );
    this.node = h("section", { class: "timeline", "aria-label": "Timeline" }, this._zoom, this._svg, this._tip);
    this._listen();
    this._resized = new ResizeObserver(() => this.draw());
    this._resized.observe(this.node);
    this._timer = setInterval(() => document.hidden || this.draw(), 1000);
  }

  close() {
    this._resized.disconnect();
    clearInterval(this._timer);
  }

  /** Take a whole list of statuses. */
  set(statuses) {
    this._segments = [];
    for (const status of statuses) this._push(status);
    this.draw();
  }

  add(status) {
    this._push(status);
    this._wanted ??= requestAnimationFrame(() => {
      this._wanted = null;
      this.draw();
    });
  }

  _push(status) {
    const from = Date.parse(status.updated_at);
    const last = this._segments[this._segments.length - 1];
    const amends =
      last?.status.state === "error" && status.state === "error" && last.status.reason === status.reason &&
      last.status.worker_id === status.worker_id;
    if (amends) {
      last.status = status; // the exit became known later
      return;
    }
    const fresh = status.worker_id !== null && status.worker_id !== this._worker;
    if (fresh) this._worker = status.worker_id;
    if (last) last.to = Math.max(from, last.from);
    this._segments.push({ status, seq: status.seq, from, to: null, fresh });
    if (this._segments.length > MOST) this._segments.splice(0, MOST / 4);
  }

  focus() {
    (this._svg.querySelector('[tabindex="0"]') ?? this._svg).focus();
  }

  _zoomTo(span, button) {
    this._span = span;
    for (const each of this._zoom.children) each.setAttribute("aria-pressed", String(each === button));
    this.draw();
  }

  draw() {
    const width = this._svg.clientWidth;
    if (width === 0) return;
    const segments = this._segments;
    const end = Math.max(Date.now() + skew, segments.length ? segments[segments.length - 1].from + 1 : 0);
    const first = segments.length ? segments[0].from : end - 60e3;
    const start = Math.max(first, end - this._span, end - 10 * 365 * 86400e3);
    this._zoom.hidden = end - first < ZOOMS[ZOOMS.length - 1][1];
    for (const [i, [, span]] of ZOOMS.entries()) this._zoom.children[i].hidden = span !== Infinity && span > end - first;
    const scale = (width - 2 * EDGE) / Math.max(end - start, 1000);
    const x = (time) => EDGE + (Math.max(time, start) - start) * scale;

    this._buckets = gather(segments, start, end, x);
    const parts = [axis(start, end, x, width)];
    for (const bucket of this._buckets) parts.push(this._bar(bucket));
    parts.push(...marks(segments, start, x));
    const focused = this._svg.contains(document.activeElement);
    this._svg.replaceChildren(...parts);
    const stop = this._svg.querySelector(`[data-seq="${this._at}"]`) ?? this._svg.querySelector(".bar:last-of-type");
    stop?.setAttribute("tabindex", "0");
    if (focused) stop?.focus({ preventScroll: true });
  }

  _bar(bucket) {
    const { x0, x1, state, list } = bucket;
    const tall = TALL[state];
    const open = list[list.length - 1].to === null;
    const wide = state === "error" && x1 - x0 > 16;
    return svg(
      "g",
      { class: `bar ${open ? "open" : ""} ${wide ? "wide" : ""}`, "data-seq": bucket.seq, "data-state": state, tabindex: "-1", role: "img", "aria-label": spoken(bucket) },
      svg("rect", { class: "reach", x: x0, y: 10, width: Math.max(x1 - x0, NARROW), height: BASE - 8 }),
      svg("rect", { class: "fill", x: x0, y: BASE - tall, width: Math.max(x1 - x0 - 1, 2), height: tall, rx: 1.5 }),
      wide && svg("rect", { class: "edge", x: x0, y: BASE - tall, width: 3, height: tall }),
      wide && svg("path", { class: "cross", d: `M${x0 + 8} ${BASE - 22}l6 6m0 -6l-6 6` }),
    );
  }

  // -- hover, focus, keys ---------------------------------------------------------------------

  _listen() {
    const bucketOf = (target) => {
      const bar = target.closest?.(".bar");
      return bar && this._buckets.find((each) => each.seq === Number(bar.dataset.seq));
    };
    this._svg.addEventListener("pointermove", (event) => this._show(bucketOf(event.target)));
    this._svg.addEventListener("pointerleave", () => {
      const active = bucketOf(document.activeElement ?? this._svg);
      this._show(this._svg.contains(document.activeElement) ? active : null);
    });
    this._svg.addEventListener("focusin", (event) => {
      const bucket = bucketOf(event.target);
      if (bucket) this._at = bucket.seq;
      this._show(bucket);
    });
    this._svg.addEventListener("focusout", () => this._show(null));
    this._svg.addEventListener("click", (event) => {
      const bucket = bucketOf(event.target);
      if (bucket) this._onpick(bucket.seq);
    });
    this._svg.addEventListener("keydown", (event) => this._key(event));
  }

  _key(event) {
    const at = this._buckets.findIndex((each) => each.seq === this._at);
    const last = this._buckets.length - 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const bucket = this._buckets[Math.min(Math.max(to, 0), last)];
      if (!bucket) return;
      this._svg.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
      const bar = this._svg.querySelector(`[data-seq="${bucket.seq}"]`);
      bar.setAttribute("tabindex", "0");
      bar.focus();
    } else if (event.key === "Enter" && at >= 0) {
      this._onpick(this._buckets[at].seq);
    } else if (event.key === "Escape") {
      this._show(null);
    }
  }

  _show(bucket) {
    this._tip.hidden = !bucket;
    if (!bucket) return;
    this._tip.replaceChildren(...described(bucket));
    const room = this.node.clientWidth - this._tip.offsetWidth - 8;
    const middle = (bucket.x0 + bucket.x1) / 2 - this._tip.offsetWidth / 2;
    this._tip.style.left = `${Math.max(8, Math.min(middle, room))}px`;
  }
}

/** Segments as bars; runs of those too narrow to be seen become one, in their gravest state. */
function gather(segments, start, end, x) {
  const buckets = [];
  for (const segment of segments) {
    const to = segment.to ?? end;
    if (to < start) continue;
    const x0 = x(segment.from);
    const x1 = Math.max(x(to), x0);
    const last = buckets[buckets.length - 1];
    const narrow = x1 - x0 < NARROW;
    if (last && last.x1 - last.x0 < NARROW && (narrow || last.narrow)) {
      if (narrow) {
        last.x1 = x1;
        last.list.push(segment);
        if (GRAVE.indexOf(segment.status.state) > GRAVE.indexOf(last.state)) last.state = segment.status.state;
        continue;
      }
    }
    buckets.push({ seq: segment.seq, x0, x1, state: segment.status.state, list: [segment], narrow });
  }
  return buckets;
}

function axis(start, end, x, width) {
  const group = svg("g", { class: "axis", "aria-hidden": "true" });
  group.append(svg("line", { x1: EDGE, x2: width - EDGE, y1: BASE + 0.5, y2: BASE + 0.5 }));
  const step = (TICKS.find((each) => (end - start) / 1000 / each <= Math.max(width / 90, 2)) ?? 86400) * 1000;
  const offset = new Date(start).getTimezoneOffset() * 60e3;
  for (let time = Math.ceil((start - offset) / step) * step + offset; time <= end; time += step) {
    const at = x(time);
    if (at < 24 || at > width - 24) continue;
    group.append(
      svg("line", { x1: at, x2: at, y1: BASE, y2: BASE + 4 }),
      svg("text", { x: at, y: BASE + 14 }, step < 60e3 ? clock(new Date(time)) : clock(new Date(time)).slice(0, 5)),
    );
  }
  return group;
}

/** Where a new worker came in. */
function marks(segments, start, x) {
  let room = -Infinity;
  return segments
    .filter(({ fresh, from }) => fresh && from >= start)
    .map(({ status, from }) => {
      const at = x(from);
      if (at < room) return null;
      room = at + 60;
      return svg("text", { class: "worker", x: at + 1, y: 10, "aria-hidden": "true" }, `worker ${visible(workerNumber(status.worker_id))}`);
    })
    .filter(Boolean);
}

/** A worker's id is its session's and its number there; the number tells it from the others. */
export function workerNumber(id) {
  const number = /\/(\d+)$/.exec(id ?? "")?.[1];
  return number ? `#${number}` : String(id ?? "").slice(-8);
}

function described({ list }) {
  if (list.length > 1) {
    const from = new Date(list[0].from);
    const counts = new Map();
    for (const { status } of list) counts.set(status.state, (counts.get(status.state) ?? 0) + 1);
    return [
      h("strong", {}, `${list.length} changes`),
      h("span", { class: "hint" }, ` from ${clock(from)}`),
      h("div", {}, [...counts].map(([state, n]) => `${n} × ${state}`).join(", ")),
    ];
  }
  const { status, from, to } = list[0];
  const lasted = to === null ? `since ${duration(Date.now() + skew - from)}` : `for ${duration(to - from)}`;
  const rows = [
    ["detail", status.detail],
    ["cause", words(status.cause)],
    ["worker", words(status.worker)],
    ["exit", exitText(status.exit)],
  ].filter(([, value]) => value);
  return [
    h("div", { class: "tip-head", "data-state": status.state }, h("span", { class: "dot" }), h("strong", {}, status.state), ` ${words(status.reason)}`),
    h("div", { class: "hint" }, `${SAID[status.reason] ?? ""} · ${clock(new Date(from))}, ${lasted}`),
    rows.length
      ? h("dl", { class: "facts" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, visible(value)))))
      : "",
  ];
}

function spoken(bucket) {
  return described(bucket)
    .map((each) => each.textContent ?? "")
    .filter(Boolean)
    .join(", ");
}
