// The settings: only what differs or everything, and a search through names and values.
import { remember } from "./address.js";

export function config(card) {
  const table = card.querySelector(".config");
  const [differing, everything] = ["differing", "everything"].map((name) => card.querySelector(`[data-${name}]`));
  for (const link of [differing, everything]) {
    link?.addEventListener("click", (event) => {
      event.preventDefault();
      const all = link === everything;
      table.classList.toggle("only-differs", !all);
      for (const [one, on] of [[differing, !all], [everything, all]]) if (on) one.setAttribute("aria-current", "true"); else one.removeAttribute("aria-current");
      remember("all", all ? "1" : "");
    });
  }
  const search = card.querySelector("[data-config-search]");
  const none = card.querySelector("[data-config-none]");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let found = 0;
    for (const row of table.tBodies[0].rows) {
      const missed = Boolean(wanted) && !row.textContent.toLowerCase().includes(wanted);
      row.toggleAttribute("data-missed", missed);
      found += missed ? 0 : 1;
    }
    if (none) none.hidden = found > 0;
  });
}
