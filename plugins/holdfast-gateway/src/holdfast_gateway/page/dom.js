// Building the document. There is no way here to make elements from text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** An element; children are nodes, or texts that stay texts. */
export const h = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const $ = (id) => document.getElementById(id);

/** Set a text only where it changed, so that nothing is laid out again for nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** One of the page's own icons, drawn once in index.html. */
export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("use", { href: `#icon-${name}` }),
  );
}

/** Ask in a dialog; resolves to the value of the button that closed it, "" if none did. */
export function ask({ title, text, buttons }) {
  const dialog = h(
    "dialog",
    { class: "ask", "aria-labelledby": "ask-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "ask-title" }, title),
      h("p", {}, text),
      h(
        "div",
        { class: "row end" },
        h("button", { value: "", class: "button" }, "Leave it"),
        buttons.map(({ value, label, danger }) =>
          h("button", { value, class: danger ? "button danger" : "button primary" }, label),
        ),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

let timer = 0;

/** Say something to those who cannot see the page. */
export function announce(text) {
  const region = $("announcer");
  region.textContent = "";
  clearTimeout(timer);
  timer = setTimeout(() => (region.textContent = text), 60); // a change is what is read out
}

/** Show a message for a while at the page's edge. */
export function toast(text, { bad = false } = {}) {
  const node = h("div", { class: bad ? "toast bad" : "toast", role: bad ? "alert" : "status" }, text);
  $("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 9000 : 4000);
}
