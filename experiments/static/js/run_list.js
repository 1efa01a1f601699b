// The runs table: choosing rows and what follows the address. The check boxes are the state (htmx preserves them when
// rows are renewed); this shows it: marked rows, the bar, select all, Shift for a range, all that match the filter.
import "./run_query.js";
import "./run_columns.js";

const form = document.getElementById("picked");
const bar = form.querySelector("[data-bulkbar]");
const matching = bar.querySelector("[data-pick-matching]");
const KEPT = ["sort", "columns", "group", "differ", "per"]; // of the address, when the filter changes
let last = null;
let seen = "";

const boxes = () => [...form.querySelectorAll("#runs input[name=run]")];
const beyond = () => [...form.querySelectorAll("input[data-beyond]")]; // chosen runs of other pages
const found = () => Number(document.getElementById("runs")?.dataset.found ?? 0);

function show() {
  const all = boxes();
  const picked = all.filter((box) => box.checked);
  const elsewhere = beyond().length;
  for (const box of all) box.closest("tr").setAttribute("aria-selected", String(box.checked));
  const n = picked.length + elsewhere;
  bar.hidden = n === 0;
  bar.querySelector("[data-picked-text]").textContent = interpolate(ngettext("%s selected", "%s selected", n), [n]);
  const whole = all.length > 0 && picked.length === all.length;
  const grouped = Boolean(form.querySelector("#runs tr.of-group"));
  matching.hidden = !whole || grouped || elsewhere > 0 || found() <= all.length;
  matching.textContent = interpolate(gettext("Select all %s that match"), [Math.min(found(), 500)]);
  const head = form.querySelector("[data-pick-all]");
  if (!head) return;
  head.checked = whole;
  head.indeterminate = picked.length > 0 && !whole;
}

function clear() {
  for (const box of boxes()) box.checked = false;
  for (const input of beyond()) input.remove();
  show();
}

async function pickMatching() {
  const { keys, n } = await kd.fetchJSON(matching.dataset.url + location.search);
  const here = new Set(boxes().map((box) => box.value));
  for (const box of boxes()) box.checked = keys.includes(Number(box.value));
  for (const key of keys) {
    if (here.has(String(key))) continue;
    const input = Object.assign(document.createElement("input"), { type: "hidden", name: "run", value: key });
    input.dataset.beyond = "";
    form.append(input);
  }
  if (n > keys.length) kd.toast(interpolate(gettext("%s runs match; the first %s are selected, as many as can be changed at once."), [n, keys.length]));
  show();
}

form.addEventListener("click", (event) => {
  const box = event.target;
  if (box.matches?.("input[name=run]")) {
    const all = boxes();
    if (event.shiftKey && last && all.includes(last)) {
      const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
      for (const other of all.slice(from, to + 1)) other.checked = box.checked;
    }
    last = box;
  }
  if (box.closest("[data-pick-none]")) clear();
  if (box.closest("[data-pick-matching]")) pickMatching().catch((error) => kd.toast(error.message, { kind: "bad" }));
});

form.addEventListener("change", (event) => {
  if (event.target.matches("[data-pick-all]")) for (const box of boxes()) box.checked = event.target.checked;
  show();
});

// Enter in the tag field puts the tag on instead of comparing.
bar.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.id !== "bulk-tag") return;
  event.preventDefault();
  bar.querySelector(".tag-form button").click();
});

document.addEventListener("htmx:afterSettle", show);

// A table that shows what the server would send again is left as it is.
document.addEventListener("htmx:configRequest", (event) => {
  if (event.target.id === "runs" && seen) event.detail.headers["X-Seen"] = seen;
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.target?.id !== "runs" || event.detail.xhr.status !== 200) return;
  seen = event.detail.xhr.getResponseHeader("X-Seen") ?? "";
});

// The filter, the file and the view that could be saved follow the address, also on the way back.
function follow() {
  const query = new URLSearchParams(location.search);
  document.getElementById("csv").search = location.search;
  for (const field of document.querySelectorAll("[data-current-query]")) field.value = location.search.slice(1);
  for (const name of KEPT) {
    const field = document.querySelector(`#filter input[name=${name}]`);
    field.value = query.get(name) ?? "";
    field.disabled = !field.value;
  }
  const line = document.getElementById("q");
  if (line !== document.activeElement) line.value = query.get("q") ?? "";
}

document.addEventListener("htmx:pushedIntoHistory", () => {
  for (const input of beyond()) input.remove(); // they belonged to another question
  follow();
  show();
});
show();
