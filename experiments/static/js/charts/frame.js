// The frame of a chart in the page: title, tools, legend, the place to draw in, and words instead of a drawing.
import { SIGN } from "./odd.js";

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function tool(icon, label, act) {
  const button = make("button", "btn quiet small icon-only", window.kd.icon(icon));
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

function entry(label, act, menu) {
  const item = make("button", "menu-item", label);
  item.type = "button";
  item.addEventListener("click", () => { menu.open = false; act(); });
  return item;
}

function moreMenu(card) {
  const label = interpolate(gettext("Save or move: %(title)s"), { title: card.spec.title }, true);
  const summary = make("summary", "btn quiet small icon-only", window.kd.icon("more"));
  summary.title = label;
  summary.setAttribute("aria-label", label);
  const menu = make("details", "menu", summary);
  const list = make("div", "menu-list", make("div", "menu-label", gettext("Save as")));
  for (const kind of ["png", "svg", "csv"]) list.append(entry(kind.toUpperCase(), () => card.save(kind), menu));
  if (card.board.arrangement.kind) {
    list.append(document.createElement("hr"));
    list.append(entry(gettext("Move earlier"), () => { card.board.arrangement.move(card, -1); summary.focus(); }, menu));
    list.append(entry(gettext("Move later"), () => { card.board.arrangement.move(card, 1); summary.focus(); }, menu));
  }
  menu.append(list);
  return menu;
}

function pinTool(card) {
  const pin = tool("pin", gettext("Pin to the top"), () => { card.board.arrangement.pin(card); show(); pin.focus(); });
  const show = () => pin.setAttribute("aria-pressed", String(card.board.arrangement.pinned(card)));
  show();
  return pin;
}

// By its head a chart is dragged before or after another of its section.
let dragged = null;

function draggable(card, element, head) {
  head.draggable = true;
  head.addEventListener("dragstart", (event) => {
    dragged = card;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", card.spec.title);
    event.dataTransfer.setDragImage(element, 20, 20);
  });
  head.addEventListener("dragend", () => { dragged = null; });
  const after = (event) => { const box = element.getBoundingClientRect(); return event.clientX > box.left + box.width / 2; };
  element.addEventListener("dragover", (event) => {
    if (!dragged || dragged === card) return;
    event.preventDefault();
    element.dataset.drop = after(event) ? "after" : "before";
  });
  element.addEventListener("dragleave", () => { delete element.dataset.drop; });
  element.addEventListener("drop", (event) => {
    delete element.dataset.drop;
    if (!dragged) return;
    event.preventDefault();
    card.board.arrangement.drop(dragged, card, after(event));
  });
}

export function frame(spec, card) {
  card.spec = spec;
  const element = make("article", "chart-card");
  const title = make("h3", "chart-title", spec.title);
  title.id = `chart-${spec.key.replace(/\W+/g, "-")}-${Math.random().toString(36).slice(2, 8)}`;
  const full = tool("expand", gettext("Full screen"), () => (document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen()));
  const tools = make("div", "chart-tools", full, moreMenu(card));
  const notes = make("div", "chart-notes");
  const head = make("header", "chart-head", title, notes, tools);
  if (card.board.arrangement.kind) { tools.prepend(pinTool(card)); draggable(card, element, head); }
  const legendList = make("div", "legend chart-legend");
  const plot = make("div", "chart-plot");
  plot.setAttribute("aria-labelledby", title.id);
  if (spec.kind === "curves") reachable(plot); else plot.setAttribute("role", "img");
  const waiting = make("span", "skeleton chart-wait");
  const body = make("div", "chart-body", plot, waiting);
  element.dataset.chart = spec.key;
  element.setAttribute("aria-busy", "true");
  element.append(head, legendList, body);
  return { element, body, plot, legendList, notes, tools, waiting };
}

// The arrow keys move the cursor along the curves: for a screen reader that is a slider which says the values.
function reachable(plot) {
  plot.tabIndex = 0;
  const said = { role: "slider", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "100", "aria-valuetext": gettext("Arrow keys read the values.") };
  for (const [name, value] of Object.entries(said)) plot.setAttribute(name, value);
}

// Words where a drawing would be; "" brings the drawing back.
export function message(card, text, again) {
  card.waiting.remove();
  card.body.querySelector(".chart-words")?.remove();
  card.plot.hidden = Boolean(text);
  card.tools.hidden = card.legendList.hidden = Boolean(text);
  if (!text) return;
  const words = make("div", "chart-words", make("p", "", text));
  if (again) {
    const button = make("button", "btn small", gettext("Try again"));
    button.type = "button";
    button.addEventListener("click", again);
    words.append(button);
  }
  card.body.append(words);
  card.element.removeAttribute("aria-busy");
}

// The classes of a swatch: a colour's name, and how its line is dashed.
export const swatch = (colour, shape = "line", dash = "solid") => `swatch ${shape} ${colour.replace(/^(teacher|control)$/, "series-$1")}${dash === "solid" ? "" : ` dash-${dash}`}`;

function legendItem(name, colour, pressed, toggle, shape) {
  const item = make("button", "legend-item", make("span", swatch(colour, shape)), make("span", "truncate", name));
  item.type = "button";
  item.title = name;
  item.setAttribute("aria-pressed", String(pressed));
  item.addEventListener("click", toggle);
  return item;
}

// A legend of its own where a chart shows several things; where the page lists the runs, that list is the legend.
export function legend(card) {
  const named = (card.figure?.data ?? []).filter((trace) => trace.meta?.color && (card.curves || trace.meta.run === undefined));
  const own = named.length > 1 && !(card.board.several && card.curves);
  card.legendList.replaceChildren(...(own ? named : []).map((trace) => legendItem(trace.name, trace.meta.color, !card.hidden.has(trace.name), (event) => {
    const off = !card.hidden.delete(trace.name);
    if (off) card.hidden.add(trace.name);
    event.currentTarget.setAttribute("aria-pressed", String(!off));
    card.redraw();
  }, trace.type === "bar" || trace.mode === "markers" ? "" : "line")));
}

const KINDS = () => ({ nan: ["×", gettext("not a number")], inf: ["▲", gettext("infinite")], "-inf": ["▼", gettext("negative infinite")] });

// Beside the title: what the signs at the edge are, where there are any, and how many points lie outside.
export function notes(card, odd, outside) {
  const found = [];
  for (const kind of Object.keys(SIGN)) {
    const of = odd.filter((one) => one.kind === kind);
    if (!of.length) continue;
    const [sign, words] = KINDS()[kind];
    const note = make("span", "chart-note chart-missing", `${sign} ${words}`);
    note.title = of.slice(0, 12).map((one) => `${one.name}: ${one.first === one.last ? one.first : `${one.first}–${one.last}`}`).join("\n");
    found.push(note);
  }
  if (outside) found.push(make("span", "chart-note chart-outside", interpolate(ngettext("%(count)s point outside", "%(count)s points outside", outside), { count: outside }, true)));
  card.notes.replaceChildren(...found);
}
