// Ctrl-K: go to anything, do anything. A combobox over a list: what this page offers (every [data-palette], at once) and
// what the server finds (a moment later, below it, so that nothing moves under the hand).
import { $, fetchJSON, icon, make, press, remember, remembered } from "./parts.js";

const dialog = $("#palette");
const field = dialog && $("input", dialog);
const list = dialog && $("[role=listbox]", dialog);
const WAIT = 120; // milliseconds after the last key
const KEPT = 6; // choices that are remembered

const PLACES = { here: gettext("This page"), pages: gettext("Pages"), actions: gettext("Actions") };

let options = []; // [{ label, hint, icon, url | element, node }], as they stand in the list
let at = -1;
let moved = false; // by the person: what arrives later must not take the choice away
let found = { query: null, groups: [] };
let waiting = null; // { abort, then }

export function openPalette() {
  if (!dialog) return false;
  if (dialog.open) { dialog.close(); return true; }
  if ($("dialog[open]")) return false;
  field.value = "";
  found = { query: null, groups: [] };
  dialog.showModal();
  field.focus();
  changed();
  return true;
}

// What this page offers

function offered() {
  const seen = new Set();
  const items = [];
  for (const element of [...document.querySelectorAll(".nav [data-palette]"), ...document.querySelectorAll("[data-palette]")]) {
    if (element.disabled || element.closest("[hidden]")) continue;
    const label = element.dataset.palette || $(".label", element)?.textContent || element.title || element.textContent.trim();
    const place = element.closest("main") ? "here" : element.closest("nav") || element.dataset.palettePlace === "pages" ? "pages" : "actions";
    const group = PLACES[place];
    if (seen.has(`${group} ${label}`)) continue;
    seen.add(`${group} ${label}`);
    items.push({ group, label, hint: element.dataset.keys ?? "", icon: $("use", element)?.getAttribute("href").split("#")[1] ?? "bolt", element });
  }
  const order = Object.values(PLACES);
  return items.sort((a, b) => order.indexOf(a.group) - order.indexOf(b.group));
}

// How well the letters of `query` stand in `text`, in their order; 0: they do not. A word's first letter and letters that
// follow each other count more; what is strewn over the text does not count.
export function score(query, text) {
  const [letters, words] = [query.toLowerCase(), text.toLowerCase()];
  const whole = words.indexOf(letters);
  if (whole >= 0) return 10 + (whole === 0 ? 5 : /[^\p{L}\p{N}]/u.test(words[whole - 1]) ? 3 : 0);
  let [from, points, count] = [0, 0, 0];
  for (const letter of letters.replace(/\s+/g, "")) {
    const place = words.indexOf(letter, from);
    if (place < 0) return 0;
    points += place === from && count ? 2 : place === 0 || /[^\p{L}\p{N}]/u.test(words[place - 1]) ? 2 : 0;
    [from, count] = [place + 1, count + 1];
  }
  return points >= count * 1.4 ? points / count : 0;
}

function local(query) {
  if (!query) return [...recent(), ...offered()];
  const ranked = offered().map((item) => ({ ...item, points: score(query, item.label) })).filter((item) => item.points > 0);
  return ranked.sort((a, b) => b.points - a.points).slice(0, 8);
}

const memory = () => `kd-recent-${dialog.dataset.person}`;

function recent() {
  try {
    return JSON.parse(remembered(memory()) ?? "[]").map((item) => ({ ...item, group: gettext("Recent") }));
  } catch { return []; }
}

function keep({ label, hint, icon: sign, url }) {
  const others = recent().filter((item) => item.url !== url).map(({ group, ...item }) => item);
  remember(memory(), JSON.stringify([{ label, hint, icon: sign, url }, ...others].slice(0, KEPT)));
}

// What is shown

function show() {
  const query = field.value.trim();
  const remote = found.groups.flatMap(({ label: group, items }) => items.map((item) => ({ ...item, group })));
  const last = query ? [{ group: gettext("Search"), label: interpolate(gettext("Filter the runs by “%s”"), [query]), hint: "", icon: "filter", url: `${dialog.dataset.runs}?q=${encodeURIComponent(query)}` }] : [];
  const chosen = moved ? options[at] : null;
  options = [...local(query), ...remote, ...last];
  const groups = Map.groupBy ? Map.groupBy(options, (item) => item.group) : grouped(options);
  options = [...groups.values()].flat();
  list.replaceChildren(...[...groups].map(([name, items], n) => section(name, items, n)));
  const same = chosen ? options.findIndex((item) => item.label === chosen.label && item.url === chosen.url && item.group === chosen.group) : -1;
  mark(same >= 0 ? same : options.length ? 0 : -1);
  $("[role=status]", dialog).textContent = interpolate(ngettext("%s choice", "%s choices", options.length), [options.length]);
}

function grouped(items) {
  const groups = new Map();
  for (const item of items) groups.set(item.group, [...(groups.get(item.group) ?? []), item]);
  return groups;
}

function section(name, items, n) {
  const head = make("div", "palette-group", name);
  head.id = `palette-group-${n}`;
  const part = make("div", "", head, ...items.map(option));
  part.setAttribute("role", "group");
  part.setAttribute("aria-labelledby", head.id);
  return part;
}

function option(item) {
  const node = make("div", "palette-item", icon(item.icon), make("span", "truncate", item.label), make("span", "hint truncate", item.hint ?? ""));
  node.id = `palette-option-${options.indexOf(item)}`;
  node.setAttribute("role", "option");
  node.addEventListener("click", () => choose(item));
  node.addEventListener("mousemove", () => { if (options[at] !== item) { moved = true; mark(options.indexOf(item), false); } });
  item.node = node;
  return node;
}

function mark(place, scroll = true) {
  options[at]?.node?.setAttribute("aria-selected", "false");
  at = place;
  for (const [n, { node }] of options.entries()) node.setAttribute("aria-selected", String(n === at));
  const node = options[at]?.node;
  field.setAttribute("aria-activedescendant", node?.id ?? "");
  if (scroll) node?.scrollIntoView({ block: "nearest" });
}

// What is typed

function changed() {
  moved = false;
  const query = field.value.trim();
  waiting?.abort.abort();
  const abort = new AbortController();
  waiting = { abort, then: null };
  show();
  setTimeout(() => ask(query, abort), query ? WAIT : 0);
}

async function ask(query, abort) {
  if (abort.signal.aborted || !dialog.open) return;
  try {
    const { groups } = await fetchJSON(`${dialog.dataset.url}?q=${encodeURIComponent(query)}`, { signal: abort.signal });
    if (abort.signal.aborted) return; // it was read already when the next letter was typed
    found = { query, groups };
    $("[data-palette-error]", dialog).hidden = true;
  } catch (error) {
    if (abort.signal.aborted) return;
    found = { query, groups: [] };
    $("[data-palette-error]", dialog).hidden = false;
  }
  const { then } = waiting;
  waiting = null;
  show();
  if (then) choose(options[0]);
}

function choose(item) {
  if (!item) return;
  dialog.close();
  if (item.element) {
    if (item.element.href) keep({ ...item, url: item.element.href });
    press(item.element);
  } else {
    keep(item);
    location.assign(item.url);
  }
}

const MOVES = { ArrowDown: (n) => (at + 1) % n, ArrowUp: (n) => (at - 1 + n) % n, PageDown: (n) => Math.min(at + 8, n - 1), PageUp: () => Math.max(at - 8, 0) };

field?.addEventListener("input", changed);
field?.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (MOVES[event.key] && options.length) {
    moved = true;
    mark(MOVES[event.key](options.length));
    event.preventDefault();
  }
  if (event.key !== "Enter") return;
  event.preventDefault();
  // Typed and sent off in one go: the answer is on its way.
  if (waiting && !moved && !local(field.value.trim()).length) waiting.then = true;
  else choose(options[at]);
});
dialog?.addEventListener("close", () => waiting?.abort.abort());
