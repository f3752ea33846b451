// The "new session" form, fed from what the gateway offers.

import { Problem, api } from "./api.js";
import { $, h, setText } from "./dom.js";
import { parseArgv, shellSyntax, visible, visibleText } from "./text.js";

let offer = null;

/** What can be started here; asked for once. */
export async function transports() {
  offer ??= await api.transports();
  return offer;
}

/** Start the demo; gives its session. */
export async function startDemo() {
  const { demo } = await transports();
  return api.create({ ...demo, start: true });
}

/** Open the form; `oncreated(session)` hears of a session that was made. */
export async function openForm(oncreated) {
  const dialog = $("new-session");
  if (dialog.open) return;
  dialog.replaceChildren(h("p", { class: "hint pad" }, "Asking what can be started here…"));
  dialog.showModal();
  try {
    offer = null; // plugins may have come
    new Form(dialog, await transports(), oncreated);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    dialog.replaceChildren(
      h("form", { method: "dialog", class: "pad" }, h("p", { role: "alert" }, error.text), h("button", { class: "button" }, "Close")),
    );
  }
}

class Form {
  constructor(dialog, { transports: schemes, dialects, broken }, oncreated) {
    this._dialog = dialog;
    this._schemes = schemes;
    this._dialects = dialects;
    this._oncreated = oncreated;
    this._options = new Map();

    this._scheme = select(schemes.map(({ scheme, summary }) => [scheme, `${scheme} — ${summary}`]));
    this._place = h("input", { class: "mono", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
    this._prefix = h("span", { class: "prefix mono" });
    this._placeField = field("Address", h("div", { class: "prefixed" }, this._prefix, this._place));
    this._optionBox = h("details", { class: "fold options" });
    this._command = h("input", { class: "mono", autocomplete: "off", spellcheck: "false", autocapitalize: "off", placeholder: "kimi --wire" });
    this._argv = h("div", { class: "argv", "aria-live": "polite" });
    this._dialect = select(dialects.map(({ name, summary }) => [name, summary ? `${name} — ${summary}` : name]));
    this._cwd = h("input", { class: "mono", autocomplete: "off", spellcheck: "false", placeholder: "the transport’s default" });
    this._name = h("input", { autocomplete: "off", maxlength: "200", placeholder: "optional" });
    this._env = h("div", { class: "env" });
    this._error = h("div", { class: "form-error", role: "alert" });
    this._submit = h("button", { class: "button primary", type: "submit" }, "Start session");
    this._target = h("code", {});

    const form = h(
      "form",
      { class: "new-session", "aria-labelledby": "new-title" },
      h(
        "header",
        {},
        h("h2", { id: "new-title" }, "New session"),
        h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
      ),
      h(
        "div",
        { class: "fields" },
        field("Where", this._scheme),
        this._placeField,
        this._optionBox,
        field("Command", this._command, this._argv),
        h("div", { class: "pair" }, field("Dialect", this._dialect), field("Name", this._name)),
        field("Working directory", this._cwd),
        h(
          "fieldset",
          {},
          h("legend", {}, "Environment"),
          this._env,
          h("button", { type: "button", class: "button small", onclick: () => this._addVariable(true) }, "Add a variable"),
        ),
        broken?.length
          ? h("details", { class: "fold broken" }, h("summary", {}, `${broken.length} broken plugin(s)`), broken.map((text) => h("p", { class: "hint" }, visible(String(text)))))
          : "",
        this._error,
      ),
      h(
        "footer",
        {},
        h("span", { class: "hint target-line" }, "Target ", this._target),
        h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"),
        this._submit,
      ),
    );
    form.addEventListener("input", () => this._refresh());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this._create();
    });
    this._scheme.addEventListener("change", () => this._chooseScheme());
    dialog.replaceChildren(form);
    if (schemes.some(({ scheme }) => scheme === "local")) this._scheme.value = "local";
    if (dialects.some(({ name }) => name === "jsonrpc")) this._dialect.value = "jsonrpc";
    this._chooseScheme();
    this._command.focus();
  }

  get _chosen() {
    return this._schemes.find(({ scheme }) => scheme === this._scheme.value);
  }

  _chooseScheme() {
    const { scheme, example, options, capabilities } = this._chosen;
    const rest = example.slice(scheme.length + 1).split("?")[0];
    this._slashes = rest.startsWith("//") ? "//" : "";
    this._prefix.textContent = `${scheme}:${this._slashes}`;
    this._place.value = "";
    this._place.placeholder = rest.slice(this._slashes.length);
    this._placeField.hidden = rest === "";
    this._place.required = rest !== "";
    this._anyCommand = !capabilities?.length || capabilities.includes("any_command");
    this._options.clear();
    const entries = Object.entries(options ?? {});
    this._optionBox.hidden = entries.length === 0;
    this._optionBox.replaceChildren(
      h("summary", {}, `Options of ${scheme}`, h("span", { class: "hint" }, entries.map(([name]) => name).join(", "))),
      h(
        "div",
        { class: "option-grid" },
        entries.map(([name, meaning]) => {
          const input = h("input", { class: "mono", autocomplete: "off", spellcheck: "false" });
          this._options.set(name, input);
          return field(name, input, h("span", { class: "hint" }, meaning));
        }),
      ),
    );
    this._refresh();
  }

  _targetText() {
    const prefix = `${this._scheme.value}:`;
    let place = this._place.value.trim();
    if (place.startsWith(prefix)) place = place.slice(prefix.length).replace(/^\/\//, "");
    const given = [...this._options].filter(([, input]) => input.value !== "");
    const encode = (text) => encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%3A", ":");
    const query = given.map(([name, input]) => `${encode(name)}=${encode(input.value)}`).join("&");
    const mark = place.includes("?") ? "&" : "?";
    return prefix + this._slashes + place + (query ? mark + query : "");
  }

  _refresh() {
    setText(this._target, visible(this._targetText()));
    const { argv, error } = parseArgv(this._command.value);
    const syntax = shellSyntax(this._command.value);
    const chips = argv.map((word) => h("code", { class: "word" }, word ? visibleText(word) : h("i", {}, "empty")));
    const notes = [];
    if (error) notes.push(h("span", { class: "bad" }, error));
    else if (!this._command.value.trim()) {
      notes.push(h("span", { class: "hint" }, this._anyCommand ? "Words as in a shell: quotes and backslashes work." : "This target has a command of its own; a name for it is enough."));
    } else if (syntax.length) {
      notes.push(h("span", { class: "hint" }, `No shell runs this: ${syntax.join(" ")} is passed on as it is. Use sh -c '…' for one.`));
    }
    this._argv.replaceChildren(...chips, ...notes);
    this._wrong = error;
  }

  _addVariable(focus) {
    const name = h("input", { class: "mono", "aria-label": "Variable", placeholder: "NAME", autocomplete: "off", spellcheck: "false" });
    const value = h("input", { class: "mono", type: "password", "aria-label": "Value", placeholder: "value", autocomplete: "off" });
    const show = h("button", { type: "button", class: "button small", "aria-pressed": "false" }, "Show");
    show.addEventListener("click", () => {
      const hidden = value.type === "text";
      value.type = hidden ? "password" : "text";
      show.textContent = hidden ? "Show" : "Hide";
      show.setAttribute("aria-pressed", String(!hidden));
    });
    const row = h("div", { class: "row variable" }, name, value, show);
    row.append(h("button", { type: "button", class: "icon-button", "aria-label": "Remove this variable", onclick: () => row.remove() }, "✕"));
    this._env.append(row);
    if (focus) name.focus();
  }

  _variables() {
    const env = {};
    for (const row of this._env.children) {
      const [name, value] = row.querySelectorAll("input");
      if (name.value.trim()) env[name.value.trim()] = value.value;
    }
    return env;
  }

  async _create() {
    const { argv } = parseArgv(this._command.value);
    if (this._wrong || (argv.length === 0 && this._anyCommand)) {
      this._error.textContent = this._wrong ? `The command: ${this._wrong}.` : "It needs a command.";
      this._command.focus();
      return;
    }
    this._error.textContent = "";
    this._submit.disabled = true;
    this._submit.textContent = "Starting…";
    try {
      const session = await api.create({
        target: this._targetText(),
        command: argv.length ? argv : [this._scheme.value],
        dialect: this._dialect.value,
        cwd: this._cwd.value.trim() || null,
        env: this._variables(),
        name: this._name.value.trim() || null,
        start: true,
      });
      this._dialog.close();
      this._oncreated(session);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this._error.textContent = visible(error.text);
    } finally {
      this._submit.disabled = false;
      this._submit.textContent = "Start session";
    }
  }
}

let fields = 0;

function field(label, ...parts) {
  const input = parts[0].matches("input, select") ? parts[0] : parts[0].querySelector("input, select");
  input.id ||= `field-${(fields += 1)}`;
  return h("div", { class: "field" }, h("label", { for: input.id }, label), parts);
}

const select = (options) => h("select", {}, options.map(([value, text]) => h("option", { value }, text)));
