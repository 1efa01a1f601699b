// The keyboard. Never while typing, never with Ctrl, Alt or Meta (but Ctrl-K), never under an open dialog.
// One registry: what is pressed, what help lists. A link or button joins it with data-keys="g r" (and says what it does
// with data-keys-label, its title or its text); FIXED holds what has no button. What finds nothing to act on here does
// nothing, and help does not list it.
import { openPalette } from "./palette.js";
import { $, make, press, remember, remembered } from "./parts.js";

const typing = (element) => Boolean(element?.closest?.("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable=true]"));
const GROUPS = { go: gettext("Go to"), page: gettext("On this page"), list: gettext("In a list"), all: gettext("Everywhere") };

const FIXED = [
  { keys: "/", group: "page", label: gettext("Search or filter this page"), find: () => $("[data-search]") ?? $("main input[type=search]"), run: seek },
  { keys: "j", group: "list", label: gettext("Next row"), find: rows, run: (all) => step(all, 1) },
  { keys: "k", group: "list", label: gettext("Row before"), find: rows, run: (all) => step(all, -1) },
  { keys: "x", group: "list", label: gettext("Select the row"), find: () => boxes(), run: select },
  { keys: "Enter", group: "list", label: gettext("Open the row"), find: rows }, // the browser's own: the row's link has the focus
  { keys: "Ctrl K", group: "all", label: gettext("Go to anything, do anything"), find: () => $("#palette") },
  { keys: "?", group: "all", label: gettext("This help"), find: () => $("#help"), run: (help) => showHelp(help) },
  { keys: "Esc", group: "all", label: gettext("Close, leave a field"), find: () => true },
];

function registry() {
  const own = [...document.querySelectorAll("[data-keys]")].map((element) => ({
    keys: element.dataset.keys, group: element.closest(".nav") ? "go" : "page", label: name(element),
    find: () => element, run: press,
  }));
  return [...own, ...FIXED].map((entry) => ({ ...entry, target: entry.find() })).filter(({ target }) => target && target.length !== 0);
}

const name = (element) => element.dataset.keysLabel || $(".label", element)?.textContent || element.title || element.textContent.trim();

// Switched off (a person may talk to the machine, or hit keys by mistake): Ctrl-K, Esc and arrows in menus stay.

const SWITCH = "kd-keys";
const off = () => remembered(SWITCH) === "off";

export function switchKeys() {
  remember(SWITCH, off() ? "on" : "off");
  showSwitch();
  return !off();
}

export function showSwitch() {
  for (const button of document.querySelectorAll("[data-keys-switch]")) button.setAttribute("aria-checked", String(!off()));
  const note = $("[data-keys-off]");
  if (note) note.hidden = !off();
}

export function showHelp(dialog) {
  const found = registry().filter(({ keys }) => !off() || ["Ctrl K", "Esc"].includes(keys));
  const parts = Object.entries(GROUPS).map(([group, title]) => {
    const lines = found.filter((entry) => entry.group === group).map(line);
    return lines.length ? make("section", "", make("h3", "", title), make("dl", "shortcuts", ...lines)) : "";
  });
  $("[data-shortcuts]", dialog).replaceChildren(...parts);
  showSwitch();
  dialog.showModal();
}

function line({ keys, label }) {
  return make("div", "", make("dt", "", label), make("dd", "", ...keys.split(" ").map((key) => make("kbd", "", key))));
}

let prefix = "";
let prefixTimer = 0;

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing) return;
  if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
    if (openPalette()) event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || $("dialog[open]")) return;
  if (event.key === "Escape") { leave(); return; }
  if (typing(event.target) || moveInMenu(event) || off()) return;
  clearTimeout(prefixTimer);
  const keys = prefix ? `${prefix} ${event.key}` : event.key;
  prefix = "";
  if (keys === "g") { prefix = "g"; prefixTimer = setTimeout(() => { prefix = ""; }, 1200); return; }
  const entry = registry().find((one) => one.keys === keys && one.run);
  if (!entry) return;
  event.preventDefault();
  entry.run(entry.target);
});

function leave() {
  const menu = $("details.menu[open]");
  if (menu) { menu.open = false; $("summary", menu).focus(); return; }
  if (typing(document.activeElement)) document.activeElement.blur();
}

function seek(field) {
  field.focus();
  field.select?.();
}

function moveInMenu(event) {
  const menu = event.target.closest?.("details.menu");
  if (!menu?.open || !["ArrowDown", "ArrowUp"].includes(event.key)) return false;
  const items = [...menu.querySelectorAll(".menu-item")];
  const at = items.indexOf(document.activeElement);
  const next = event.key === "ArrowDown" ? at + 1 : at < 0 ? items.length - 1 : at - 1;
  items[(next + items.length) % items.length]?.focus();
  event.preventDefault();
  return true;
}

// Lists: the focus goes from the link of one row to that of the next.

function rows() {
  const table = document.activeElement?.closest?.("table.table") ?? [...document.querySelectorAll("main table.table")].find(linked);
  return table ? [...table.querySelectorAll("tbody tr")].filter(linked) : [];
}

const linked = (part) => $("tbody .name a[href], :scope > .name a[href]", part);
const boxes = () => rows().map((row) => $("input[type=checkbox]", row)).filter(Boolean);

function step(all, by) {
  const at = all.indexOf(document.activeElement?.closest("tr"));
  const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
  linked(next).focus();
  next.scrollIntoView({ block: "nearest" });
}

function select(all) {
  const row = document.activeElement?.closest("tr");
  all.find((box) => box.closest("tr") === row)?.click();
}

// A list that is renewed under the focus gives it back to the same row.

let address = "";
document.addEventListener("focusin", (event) => { address = event.target.closest?.("table.table .name") ? event.target.getAttribute("href") : ""; });
document.addEventListener("htmx:afterSettle", () => {
  if (!address || document.activeElement !== document.body) return;
  rows().map(linked).find((link) => link.getAttribute("href") === address)?.focus({ preventScroll: true });
});
