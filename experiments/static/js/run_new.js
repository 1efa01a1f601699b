// The form of a new run: what the server cannot do. It renders rows, presets and checks (htmx); here terms are
// removed, parts that htmx brought are checked again, and a double click starts one run.

const form = document.getElementById("run-form");
const check = () => window.htmx.trigger("#run-check", "kd:check");

form?.addEventListener("click", (event) => {
  const button = event.target.closest("[data-remove-term]");
  if (!button) return;
  event.preventDefault();
  const term = button.closest("[data-term]");
  const next = term.nextElementSibling ?? term.previousElementSibling;
  term.remove();
  (next?.querySelector("select") ?? document.querySelector("[name=add_term]")).focus();
  custom();
  check();
});

// A weight or method changed by hand is no preset any more.
function custom() {
  for (const radio of form.querySelectorAll("[name=preset]")) radio.checked = false;
  document.getElementById("recipe-chosen")?.remove();
}

// The proposed layers into their fields, to be changed there.
form?.addEventListener("click", (event) => {
  const button = event.target.closest("[data-edit-pairs]");
  if (!button) return;
  const fields = [...button.closest(".term").querySelectorAll("[data-layer-of]")];
  for (const field of fields) field.value = button.dataset[field.dataset.layerOf];
  fields[0]?.focus();
  custom();
  check();
});

form?.addEventListener("input", (event) => {
  if (event.target.closest(".term")) custom();
});

const PARTS = "#teacher-field, #objective, #terms, .term";

document.addEventListener("htmx:afterSettle", (event) => {
  const { target } = event.detail;
  if (!form || !target?.matches?.(PARTS)) return;
  if (target.matches("#terms, .term")) custom();
  check();
});

// Without a preset there is nothing that its numbers could be put into: the terms stay as they were typed.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.id === "alpha" && !form.querySelector("[name=preset]:checked")) event.preventDefault();
});

form?.addEventListener("submit", (event) => {
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
  document.getElementById("start").setAttribute("aria-disabled", "true");
});

// Back from the next page: the form may be sent again (the server knows a submission it has seen).
window.addEventListener("pageshow", () => {
  if (!form) return;
  delete form.dataset.sent;
  document.getElementById("start").removeAttribute("aria-disabled");
});

// Show the first field with an error.
form?.querySelector(".field.invalid :is(input, select, textarea)")?.focus();
