// The gateway's REST interface. A failure is a `Problem`, whatever failed.

/** What the gateway said of a failure, or that it could not be reached (status 0). */
export class Problem extends Error {
  constructor({ title, status, detail, hint }) {
    super(title);
    this.title = title;
    this.status = status;
    this.detail = typeof detail === "string" ? detail : detail ? JSON.stringify(detail) : "";
    this.hint = hint ?? "";
  }

  /** All that is known, as one text. */
  get text() {
    return [this.title, this.detail, this.hint].filter(Boolean).join(". ").replaceAll("..", ".");
  }
}

let onSignedOut = () => {};

/** Say what shall happen when the gateway does not know this browser (any more). */
export function whenSignedOut(callback) {
  onSignedOut = callback;
}

/** How far the gateway's clock is ahead of ours, in ms; below 2 s it is taken for none. */
export let skew = 0;

async function call(method, path, { json, body, type, signal } = {}) {
  const headers = { accept: "application/json" };
  if (json !== undefined) {
    body = JSON.stringify(json);
    type = "application/json";
  }
  if (type) headers["content-type"] = type;
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The gateway cannot be reached", status: 0, detail: "" });
  }
  const date = Date.parse(response.headers.get("date") ?? "");
  if (!Number.isNaN(date)) {
    const difference = date + 500 - Date.now(); // the header has whole seconds
    skew = Math.abs(difference) > 2000 ? difference : 0;
  }
  const text = await response.text();
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) {
      throw new Problem({ title: "The gateway's answer is no JSON", status: response.status });
    }
  }
  if (response.ok) return data;
  if (response.status === 401) onSignedOut();
  throw new Problem({
    title: data?.title ?? `The gateway answered ${response.status} ${response.statusText}`.trim(),
    status: response.status,
    detail: data?.detail,
    hint: data?.hint,
  });
}

const path = (id, rest = "") => `/api/sessions/${encodeURIComponent(id)}${rest}`;

export const api = {
  transports: () => call("GET", "/api/transports"),
  sessions: (signal) => call("GET", "/api/sessions/", { signal }).then((data) => data.sessions),
  create: (json) => call("POST", "/api/sessions/", { json }),
  session: (id) => call("GET", path(id)),
  remove: (id) => call("DELETE", path(id)),
  stop: (id) => call("POST", path(id, "/stop")),
  kill: (id) => call("POST", path(id, "/kill")),
  restart: (id, force) => call("POST", path(id, `/restart${force ? "?force=true" : ""}`)),
  events: (id, { after, limit, client }) =>
    call("GET", path(id, `/events?after=${after}&limit=${limit}&client=${client}`)),
  send: (id, line, client, json) =>
    call("POST", path(id, `/messages?client=${client}`), {
      body: line,
      type: json ? "application/json" : "text/plain",
    }),
};

/** The name under which this tab asks; with it, its answers come back after a reload. */
export const client = (() => {
  const name = sessionStorage.getItem("holdfast-client") ?? "page-" + random(8);
  sessionStorage.setItem("holdfast-client", name);
  return name;
})();

let count = 0;
const prefix = random(4);

/** An id that no request of this tab had before, nor one of a copy of this tab. */
export const requestId = () => `${prefix}-${(count += 1)}`;

function random(length) {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (n) => letters[n % 32]).join("");
}
