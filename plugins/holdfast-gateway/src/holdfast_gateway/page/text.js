// Texts: what a person may see of a worker's bytes, command lines as argv, times and sizes.
// Nothing here touches the document, but for `visibleText`, which makes its nodes.

/* What a terminal or the bidi algorithm would act on instead of showing it: C0 without tab and
   newline, DEL, C1, bidi marks, embeddings, overrides and isolates, invisible separators, the
   variation of tags, and half surrogates. Joiners (U+200C, U+200D) stay: scripts and emoji need
   them. */
const HIDDEN =
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f" +
  "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}" +
  "\\ud800-\\udfff]"; // with the flag u, only surrogates without their other half

const NAMES = {
  0x00: "NUL", 0x07: "BEL", 0x08: "backspace", 0x0d: "carriage return", 0x1b: "ESC",
  0x7f: "DEL", 0x9b: "CSI", 0xad: "soft hyphen", 0x61c: "Arabic letter mark",
  0x200b: "zero width space", 0x200e: "left-to-right mark", 0x200f: "right-to-left mark",
  0x2028: "line separator", 0x2029: "paragraph separator", 0x202a: "left-to-right embedding",
  0x202b: "right-to-left embedding", 0x202c: "pop directional formatting",
  0x202d: "left-to-right override", 0x202e: "right-to-left override", 0x2060: "word joiner",
  0x2066: "left-to-right isolate", 0x2067: "right-to-left isolate",
  0x2068: "first strong isolate", 0x2069: "pop directional isolate", 0xfeff: "byte order mark",
};

const hidden = () => new RegExp(HIDDEN, "gu");

/** How a hidden character is written: `\x1b`, `\u202e`, `\u{e0001}`. */
export function escapeOf(character) {
  const code = character.codePointAt(0);
  if (code < 0x100) return "\\x" + code.toString(16).padStart(2, "0");
  if (code < 0x10000) return "\\u" + code.toString(16).padStart(4, "0");
  return "\\u{" + code.toString(16) + "}";
}

/** A text in which every hidden character is written out, for places that hold only text. */
export function visible(text) {
  return String(text).replace(hidden(), escapeOf);
}

/** As `visible`, on one line. */
export function oneLine(text, limit = 300) {
  const short = cut(String(text), limit);
  return visible(short).replace(/\s+/g, " ").trim();
}

/** The first `limit` UTF-16 units, with an ellipsis if there was more; never half a character. */
export function cut(text, limit) {
  if (text.length <= limit) return text;
  const code = text.charCodeAt(limit - 1);
  return text.slice(0, code >= 0xd800 && code < 0xdc00 ? limit - 1 : limit) + "…";
}

/** A text as nodes: hidden characters stand in boxes of their own, the rest is plain text. */
export function visibleText(text) {
  const nodes = document.createDocumentFragment();
  const pattern = hidden();
  let from = 0;
  for (let match; (match = pattern.exec(text)) !== null; ) {
    if (match.index > from) nodes.append(text.slice(from, match.index));
    const box = document.createElement("span");
    box.className = "escape";
    box.textContent = escapeOf(match[0]);
    const code = match[0].codePointAt(0);
    const name = NAMES[code];
    box.title = "U+" + code.toString(16).toUpperCase().padStart(4, "0") + (name ? " " + name : "");
    nodes.append(box);
    from = pattern.lastIndex;
  }
  if (from < text.length) nodes.append(text.slice(from));
  return nodes;
}

/** Whether two texts, joined, hold a character that neither holds alone. */
export function splitsCharacter(before, after) {
  return /[\ud800-\udbff]$/.test(before) && /^[\udc00-\udfff]/.test(after);
}

// -- command lines -----------------------------------------------------------------------------

/**
 * Split a command line as a POSIX shell splits words: spaces, '…', "…" and backslashes. Nothing
 * is expanded.
 * @returns {{argv: string[], error: string|null}}
 */
export function parseArgv(line) {
  const argv = [];
  let word = null;
  let quote = "";
  for (let i = 0; i < line.length; i += 1) {
    const c = line[i];
    if (quote === "'") {
      if (c === "'") quote = "";
      else word += c;
    } else if (c === "\\") {
      i += 1;
      if (i >= line.length) return { argv, error: "a backslash stands at the end" };
      const next = line[i];
      if (next === "\n") continue; // a continued line
      word = (word ?? "") + (quote && !'"\\$`'.includes(next) ? "\\" + next : next);
    } else if (quote === '"') {
      if (c === '"') quote = "";
      else word += c;
    } else if (c === "'" || c === '"') {
      quote = c;
      word ??= "";
    } else if (/\s/.test(c)) {
      if (word !== null) argv.push(word);
      word = null;
    } else {
      word = (word ?? "") + c;
    }
  }
  if (quote) return { argv, error: `a ${quote} is not closed` };
  if (word !== null) argv.push(word);
  return { argv, error: null };
}

/** Words as one command line that `parseArgv` splits into them again. */
export function quoteArgv(argv) {
  return argv
    .map((word) =>
      /^[\w@%+=:,./…-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'",
    )
    .join(" ");
}

/** A command line in which long paths are only their last part. */
export function shortCommand(argv) {
  return quoteArgv(argv.map((word) => (/^\/.{24,}$/.test(word) ? "…/" + word.split("/").pop() : word)));
}

/** What a shell would have acted on, had this been one; for a hint. */
export function shellSyntax(line) {
  const plain = line.replace(/'[^']*'|"[^"]*"|\\./g, "");
  return [...new Set(plain.match(/\$\w+|\$\(|&&|\|\||[|<>*;`~]/g) ?? [])];
}

// -- JSON, bytes, times ------------------------------------------------------------------------

/** A value on one line, shortened. */
export function compact(value, limit = 160) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return oneLine(text ?? "", limit);
}

/** JSON, or undefined for what is none. */
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A text that is JSON over several lines as one line, its bytes else unchanged. */
export function unfold(text) {
  return text.trim().replace(/\s*\n\s*/g, " ");
}

/** Base64 as text: UTF-8 where it is, U+FFFD where it is not. */
export function decodeBase64(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new TextDecoder().decode(bytes);
}

/** Bytes that are no UTF-8 as text in which they can be read: `caf\xe9`. */
export function base64ToVisible(base64) {
  const binary = atob(base64);
  return binary.replace(/[^\x20-\x7e\n\t]/g, (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0"));
}

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  if (n < 1024 * 1024) return `${(n / 1024).toFixed(1)} KiB`;
  return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}

export function duration(ms) {
  if (ms < 0) ms = 0;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d`;
}

/** A duration in its largest unit alone, for narrow places. */
export function age(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function clock(time) {
  const pad = (n) => String(n).padStart(2, "0");
  return `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}`;
}

/** `stdin_broken` as `stdin broken`. */
export const words = (name) => String(name ?? "").replaceAll("_", " ");

/** How a worker ended, as holdfast says it. */
export function exitText(exit) {
  if (!exit) return null;
  const text = exit.signal
    ? `killed by ${exit.signal}`
    : exit.code !== null && exit.code !== undefined
      ? `exited with code ${exit.code}`
      : "exit not reported";
  return exit.detail ? `${text} (${exit.detail})` : text;
}
