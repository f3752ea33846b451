// Light or dark: as the system has it, until somebody chooses.

const CHOICES = ["system", "light", "dark"];
const KEY = "holdfast-theme";

function chosen() {
  const kept = localStorage.getItem(KEY);
  return CHOICES.includes(kept) ? kept : "system";
}

function apply(choice) {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}

/** Let a button go through the choices. */
export function setUpTheme(button) {
  const draw = () => {
    button.dataset.theme = chosen();
    button.setAttribute("aria-label", `Colours: ${chosen()}`);
    button.title = `Colours: ${chosen()}`;
  };
  button.addEventListener("click", () => {
    const next = CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length];
    localStorage.setItem(KEY, next);
    apply(next);
    draw();
  });
  draw();
}

apply(chosen());
