// The page: where it is, what is shown there, and the keys.

import { Problem, api, whenSignedOut } from "./api.js";
import { openForm, startDemo, transports } from "./create.js";
import { $, h, setText, svg, toast } from "./dom.js";
import { SessionView } from "./session.js";
import { Sidebar } from "./sidebar.js";
import { duration } from "./text.js";
import { setUpTheme } from "./theme.js";

let view = null;
let opening = 0;
let reachable = true;
let link = null; // the session's stream, while one is open

const sidebar = new Sidebar({
  onsessions(sessions) {
    const mine = view && sessions.find(({ id }) => id === view.id);
    if (mine) view.update(mine);
    drawPlace();
  },
  onlink(ok) {
    reachable = ok;
    drawLink();
  },
});

// -- places: #/ and #/sessions/ID ------------------------------------------------------------------

function place() {
  const match = /^#\/sessions\/([^/]+)$/.exec(location.hash);
  return match ? decodeURIComponent(match[1]) : null;
}

async function go() {
  const id = place();
  document.body.dataset.place = id ? "session" : "list";
  sidebar.select(id);
  if (view?.id === id) return;
  view?.close();
  view = null;
  link = null;
  const mine = (opening += 1);
  $("main").replaceChildren();
  drawPlace();
  drawLink();
  if (!id) return;
  let session;
  for (let wait = 500; !session; wait = Math.min(wait * 2, 5000)) {
    try {
      session = await api.session(id);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (mine !== opening || error.status === 401) return;
      if (error.status === 404) return showMissing(id);
      reachable = error.status !== 0;
      drawLink();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    if (mine !== opening) return;
  }
  view = new SessionView(session, {
    onlink(state, retryAt, why) {
      link = { state, retryAt, why };
      drawLink();
    },
    onstatus: (of, status) => sidebar.update(of, status),
    ongone(of) {
      toast("The session was deleted.");
      if (place() === of) location.hash = "#/";
      sidebar.refresh();
    },
    refresh: () => sidebar.refresh(),
  });
  $("main").replaceChildren(view.node);
  document.title = `${view.node.querySelector("h1").textContent} · holdfast`;
  if (document.activeElement === document.body) view.node.querySelector("h1").focus({ preventScroll: true });
}

function showMissing(id) {
  $("main").replaceChildren(
    h(
      "div",
      { class: "notice" },
      h("h1", {}, "There is no such session"),
      h("p", {}, "It was deleted, or the gateway that had it kept its history in memory only."),
      h("p", { class: "hint mono" }, id.slice(0, 80)),
      h("a", { class: "button", href: "#/" }, "All sessions"),
    ),
  );
}

/** What stands in the middle while no session is chosen. */
function drawPlace() {
  document.body.classList.toggle("no-sessions", sidebar.known && sidebar.sessions.length === 0);
  if (place()) return;
  document.title = "holdfast";
  const wanted = !sidebar.known ? "" : sidebar.sessions.length === 0 ? "welcome" : "choose";
  if ($("main").dataset.shows === wanted && $("main").firstElementChild) return;
  $("main").dataset.shows = wanted;
  if (wanted === "welcome") $("main").replaceChildren(welcome());
  else if (wanted === "choose") $("main").replaceChildren(h("div", { class: "notice" }, h("p", { class: "hint" }, "Choose a session, or press ", h("kbd", {}, "n"), " for a new one.")));
}

function welcome() {
  const demo = h("button", { class: "button primary large", id: "start-demo" }, "Start the demo");
  transports().then((offer) => (demo.hidden = !offer.demo)).catch(() => {}); // the button meets it again
  demo.addEventListener("click", async () => {
    demo.disabled = true;
    try {
      created(await startDemo());
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      toast(error.text, { bad: true });
      demo.disabled = false;
    }
  });
  return h(
    "div",
    { class: "notice welcome" },
    sketch(),
    h("h1", {}, "No sessions yet"),
    h("p", {}, "A session runs a worker, a program that reads and writes lines, here or on another machine, and tells you the truth about its state."),
    h("p", {}, "The demo is a small chat. Send it a prompt, kill it in the middle of its answer, and see what is said."),
    h("div", { class: "row" }, demo, h("button", { class: "button large", onclick: newSession }, "New session…")),
  );
}

/** A small timeline: idle, at work, lost, at work again, idle. */
function sketch() {
  const bars = [[0, 60, 12, "idle"], [62, 34, 28, "busy"], [98, 52, 28, "error"], [152, 44, 28, "busy"], [198, 82, 12, "idle"]];
  return svg(
    "svg",
    { class: "sketch", viewBox: "0 0 280 34", width: 280, height: 34, "aria-hidden": "true" },
    bars.map(([x, width, height, state]) =>
      svg("g", { "data-state": state }, svg("rect", { x, y: 31 - height, width, height, rx: 2 })),
    ),
  );
}

function created(session) {
  location.hash = `#/sessions/${encodeURIComponent(session.id)}`;
  sidebar.refresh();
}

function newSession() {
  openForm(created);
}

// -- the connection --------------------------------------------------------------------------------

function drawLink() {
  const node = $("link");
  let state = "live";
  let text = "Live";
  if (!reachable) [state, text] = ["lost", "Gateway unreachable"];
  if (link?.state === "waiting") {
    const left = link.retryAt - Date.now();
    const again = left > 900 ? `Reconnecting in ${duration(Math.ceil(left / 1000) * 1000).replace(".0", "")}` : "Reconnecting…";
    [state, text] = ["lost", link.why ? `${link.why} · ${again}` : again];
  } else if (link?.state === "connecting") {
    [state, text] = ["connecting", "Connecting…"];
  }
  node.dataset.link = state;
  setText(node.lastElementChild, text);
}

setInterval(() => link?.state === "waiting" && drawLink(), 500);

whenSignedOut(() => {
  view?.close();
  const dialog = $("signed-out");
  if (!dialog.open) dialog.showModal();
});

$("signed-out").addEventListener("cancel", (event) => event.preventDefault());
$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("token").value.trim();
  const token = /[?&]token=([^&#]+)/.exec(text)?.[1] ?? encodeURIComponent(text);
  if (token) location.assign(`/?token=${token}${location.hash}`);
});

// -- keys ------------------------------------------------------------------------------------------

const KEYS = {
  "?": () => $("help").showModal(),
  n: newSession,
  "/": () => {
    $("filter").parentElement.hidden = false;
    $("filter").focus();
  },
  j: () => step(1),
  k: () => step(-1),
  u: () => (location.hash = "#/"),
  p: () => view?.focusPrompt(),
  t: () => view?.focusTimeline(),
  v: () => view?.nextView(),
  x: () => view?.cancel(),
  R: () => view?.restart(),
  S: () => view?.stop(),
  K: () => view?.kill(),
  D: () => view?.remove(),
};

function step(by) {
  const next = sidebar.neighbour(by);
  if (next) location.hash = `#/sessions/${encodeURIComponent(next.id)}`;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// -- begin -----------------------------------------------------------------------------------------

setUpTheme($("theme"));
$("new").addEventListener("click", newSession);
$("show-help").addEventListener("click", () => $("help").showModal());
addEventListener("hashchange", go);
sidebar.refresh();
go();
