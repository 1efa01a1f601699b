// A table that its heads sort: the better end first, the other way round with a second click. What has no value
// stays below.

export function sortable(table) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("[data-sort]");
    if (button) sort(table, button.closest("th"), button.dataset.sort);
  });
}

function sort(table, head, better) {
  const before = head.getAttribute("aria-sort");
  const first = better === "max" ? "descending" : "ascending";
  const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const place = head.cellIndex;
  const sign = order === "ascending" ? 1 : -1;
  const numeric = head.classList.contains("num");
  const value = (row) => row.cells[place].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (!left || !right) return Number(!left) - Number(!right);
    return sign * (numeric ? left - right : left.localeCompare(right, undefined, { numeric: true }));
  });
  table.tBodies[0].append(...rows);
}
