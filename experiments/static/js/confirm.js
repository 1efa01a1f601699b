// The question before what cannot be undone.
// data-confirm="text" [data-confirm-name="must be typed"] [data-confirm-yes="button text"] on a form, its button, an htmx element.
import { $ } from "./parts.js";

export function confirmDialog(text, { name = "", yes = "" } = {}) {
  const dialog = $("#confirm");
  const accept = $("[data-confirm-yes]", dialog);
  const input = $("#confirm-name");
  accept.dataset.usual ??= accept.textContent;
  $("[data-confirm-text]", dialog).textContent = text;
  $("[data-confirm-expected]", dialog).textContent = name;
  $("[data-confirm-field]", dialog).hidden = !name;
  accept.textContent = yes || accept.dataset.usual;
  input.value = "";
  accept.disabled = Boolean(name);
  input.oninput = () => { accept.disabled = input.value !== name; };
  // Enter answers "no" as long as the name is not typed out: the first submit button of the form is Cancel.
  input.onkeydown = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!accept.disabled) accept.click();
  };
  dialog.returnValue = "no";
  dialog.showModal();
  if (name) input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const question = (element) => [element.dataset.confirm, { name: element.dataset.confirmName, yes: element.dataset.confirmYes }];

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const asker = event.submitter?.dataset.confirm ? event.submitter : form;
  if (!asker.dataset.confirm || isHtmx(form) || isHtmx(asker)) return;
  if (asker.dataset.confirmed) { delete asker.dataset.confirmed; return; }
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!(await confirmDialog(...question(asker)))) return;
  asker.dataset.confirmed = "yes";
  form.requestSubmit(event.submitter);
}, true);

const isHtmx = (element) => ["get", "post", "put", "patch", "delete"].some((verb) => element.hasAttribute(`hx-${verb}`));

document.addEventListener("htmx:confirm", async (event) => {
  const element = event.detail.elt;
  if (!element.dataset?.confirm) return;
  event.preventDefault();
  if (await confirmDialog(...question(element))) event.detail.issueRequest(true);
});
