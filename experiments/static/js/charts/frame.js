// The frame of a chart in the page: title, tools, legend, the place to draw in, and words instead of a drawing.

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

function saveMenu(card, words) {
  const summary = make("summary", "btn quiet small icon-only", window.kd.icon("download"));
  summary.title = words.save;
  summary.setAttribute("aria-label", words.save);
  const menu = make("details", "menu", summary);
  const list = make("div", "menu-list");
  for (const kind of ["png", "svg", "csv"]) {
    const item = make("button", "menu-item", kind.toUpperCase());
    item.type = "button";
    item.addEventListener("click", () => { menu.open = false; card.save(kind); });
    list.append(item);
  }
  menu.append(list);
  return menu;
}

export function frame(spec, card) {
  const { words } = card.board;
  const element = make("article", "chart-card");
  const title = make("h3", "chart-title", spec.title);
  title.id = `chart-${spec.key}-${Math.random().toString(36).slice(2, 8)}`;
  const full = tool("expand", words.full, () => (document.fullscreenElement ? document.exitFullscreen() : element.requestFullscreen()));
  const tools = make("div", "chart-tools", full, saveMenu(card, words));
  const legendList = make("div", "legend chart-legend");
  const plot = make("div", "chart-plot");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-labelledby", title.id);
  const waiting = make("span", "skeleton chart-wait");
  const body = make("div", "chart-body", plot, waiting);
  element.dataset.chart = spec.key;
  element.setAttribute("aria-busy", "true");
  element.append(make("header", "chart-head", title, tools), legendList, body);
  return { element, body, plot, legendList, tools, waiting };
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
    const button = make("button", "btn small", card.board.words.again);
    button.type = "button";
    button.addEventListener("click", again);
    words.append(button);
  }
  card.body.append(words);
  card.element.removeAttribute("aria-busy");
}

export function legendItem(name, colour, pressed, toggle, shape = "line") {
  const item = make("button", "legend-item", make("span", `swatch ${shape} ${colour.replace(/^(teacher|control)$/, "series-$1")}`), make("span", "truncate", name));
  item.type = "button";
  item.title = name;
  item.setAttribute("aria-pressed", String(pressed));
  item.addEventListener("click", toggle);
  return item;
}

// A legend of its own where a chart shows several things; where the page lists the runs, that list is the legend.
export function legend(card) {
  const named = (card.figure?.data ?? []).filter((trace) => trace.meta?.color);
  const own = named.length > 1 && !(card.board.shared && card.curves);
  card.legendList.replaceChildren(...(own ? named : []).map((trace) => legendItem(trace.name, trace.meta.color, !card.hidden.has(trace.name), (event) => {
    const off = !card.hidden.delete(trace.name);
    if (off) card.hidden.add(trace.name);
    event.currentTarget.setAttribute("aria-pressed", String(!off));
    card.redraw();
  }, trace.type === "bar" || trace.mode === "markers" ? "" : "line")));
}

// Says what the red crosses are, where there are any.
export function missingNote(card, count) {
  card.legendList.querySelector(".chart-missing")?.remove();
  if (count) card.legendList.append(make("span", "legend-item chart-missing", `× ${card.board.words.missing}`));
}
