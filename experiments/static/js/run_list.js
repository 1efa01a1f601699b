// The runs table: choosing rows. The check boxes are the state (htmx preserves them when rows are renewed);
// this shows it: marked rows, the bar, select all, Shift for a range. The address of the CSV follows the query.

const form = document.getElementById("picked");
const bar = form.querySelector("[data-bulkbar]");
let last = null;

const boxes = () => [...form.querySelectorAll("input[name=run]")];

function show() {
  const all = boxes();
  const picked = all.filter((box) => box.checked);
  for (const box of all) box.closest("tr").setAttribute("aria-selected", String(box.checked));
  bar.hidden = picked.length === 0;
  bar.querySelector("[data-picked]").textContent = picked.length;
  const head = form.querySelector("[data-pick-all]");
  if (!head) return;
  head.checked = picked.length > 0 && picked.length === all.length;
  head.indeterminate = picked.length > 0 && picked.length < all.length;
}

form.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches?.("input[name=run]")) return;
  const all = boxes();
  if (event.shiftKey && last && all.includes(last)) {
    const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
    for (const other of all.slice(from, to + 1)) other.checked = box.checked;
  }
  last = box;
});

form.addEventListener("change", (event) => {
  if (event.target.matches("[data-pick-all]")) for (const box of boxes()) box.checked = event.target.checked;
  show();
});

form.addEventListener("click", (event) => {
  if (!event.target.closest("[data-pick-none]")) return;
  for (const box of boxes()) box.checked = false;
  show();
});

document.addEventListener("htmx:afterSettle", show);

// The query line, the sort order and the CSV follow the address, also on the way back.
function follow() {
  const query = new URLSearchParams(location.search);
  const csv = document.getElementById("csv");
  csv.search = new URLSearchParams({ q: query.get("q") ?? "", sort: query.get("sort") ?? "-created" });
  document.querySelector("input[name=sort]").value = query.get("sort") ?? "-created";
  const line = document.getElementById("q");
  if (line !== document.activeElement) line.value = query.get("q") ?? "";
}

document.addEventListener("htmx:pushedIntoHistory", follow);
show();
