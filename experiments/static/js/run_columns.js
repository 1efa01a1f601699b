// The dialog of columns and groups: what is ticked stands in a list, which is put in order; Show leads to the address
// that says all of it.

const dialog = document.getElementById("columns");
const $ = (selector) => dialog.querySelector(selector);
const chosen = () => [...dialog.querySelectorAll("[data-chosen] > li")];

document.addEventListener("click", async (event) => {
  const opener = event.target.closest("[data-columns]");
  if (!opener) return;
  await window.htmx.ajax("GET", opener.dataset.columns + location.search, { target: "#columns", swap: "innerHTML" });
  dialog.showModal();
});

function add(key, label) {
  const item = $("[data-chosen-template]").content.firstElementChild.cloneNode(true);
  item.dataset.key = key;
  item.querySelector("[data-label]").textContent = label;
  item.querySelector("[data-remove]").disabled = false;
  $("[data-chosen]").append(item);
}

function group(key, label) {
  if (!key || dialog.querySelector(`[data-groups] > [data-key="${CSS.escape(key)}"]`)) return;
  const item = Object.assign(document.createElement("li"), { className: "chip", textContent: label });
  item.dataset.key = key;
  const gone = Object.assign(document.createElement("button"), { type: "button", className: "btn quiet icon-only small" });
  gone.dataset.ungroup = "";
  gone.setAttribute("aria-label", interpolate(gettext("Do not group by %s"), [label]));
  gone.append(kd.icon("close"));
  item.append(gone);
  $("[data-groups]").append(item);
}

dialog.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const item = event.target.closest("li");
  if (button?.matches("[data-move]")) {
    const down = button.dataset.move === "1";
    const neighbour = down ? item.nextElementSibling : item.previousElementSibling;
    if (neighbour) neighbour[down ? "after" : "before"](item);
    button.focus();
  } else if (button?.matches("[data-remove]")) {
    const box = dialog.querySelector(`[data-column][value="${CSS.escape(item.dataset.key)}"]`);
    if (box) box.checked = false;
    item.remove();
  } else if (button?.matches("[data-ungroup]")) item.remove();
  else if (button?.matches("[data-columns-reset]")) show({ columns: "", group: "", differ: "" });
});

dialog.addEventListener("change", (event) => {
  const field = event.target;
  if (field.matches("[data-column]")) {
    if (field.checked) add(field.value, field.dataset.label);
    else chosen().find((item) => item.dataset.key === field.value)?.remove();
  }
  if (field.matches("[data-group-add]")) {
    group(field.value, field.selectedOptions[0].textContent);
    field.value = "";
  }
});

dialog.addEventListener("input", (event) => {
  if (!event.target.matches("[data-column-search]")) return;
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const part of dialog.querySelectorAll("[data-search-text]")) {
    part.hidden = !words.every((word) => part.dataset.searchText.toLowerCase().includes(word));
  }
  for (const set of dialog.querySelectorAll(".offered fieldset")) set.hidden = !set.querySelector("[data-search-text]:not([hidden])");
});

dialog.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("[data-column-search]")) event.preventDefault();
});

dialog.addEventListener("submit", () => {
  const groups = [...dialog.querySelectorAll("[data-groups] > li")].map((item) => item.dataset.key);
  show({ columns: chosen().map((item) => item.dataset.key).join(","), group: groups.join(","), differ: $("[name=differ]").checked ? "1" : "" });
});

function show(changes) {
  const query = new URLSearchParams(location.search);
  for (const name of ["page", "open"]) query.delete(name);
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  if (dialog.open) dialog.close();
  const url = `?${query.toString() || "q="}`;
  window.htmx.ajax("GET", location.pathname + url, { target: "#runs", swap: "outerHTML", source: "#runs" })
    .then(() => { history.pushState({ htmx: true }, "", url); document.dispatchEvent(new CustomEvent("htmx:pushedIntoHistory")); });
}
