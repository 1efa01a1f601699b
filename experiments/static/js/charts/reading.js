// What a chart says at the cursor: a line, and a table over its emptier half, so that nothing moves.
import { nearest, words } from "./axis.js";
import { swatch } from "./frame.js";
import { SIGN } from "./odd.js";

const ROW = 20; // px
const NEAR = 6; // px from the cursor that a mark at the edge may lie

function make(tag, className, text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

export class Reading {
  constructor(card) {
    this.card = card;
    this.line = make("span", "chart-line");
    this.box = make("div", "chart-values");
    this.place = make("p", "chart-place");
    this.table = make("table", "");
    this.box.append(this.place, this.table);
    for (const element of [this.line, this.box]) { element.hidden = true; element.setAttribute("aria-hidden", "true"); }
    card.body.append(this.line, this.box);
  }

  show(at) {
    const { card } = this;
    const axis = at && card.drawn && card.curves ? card.plot._fullLayout?.xaxis : null;
    const x = axis ? card.placeOf(at.mode, at.x, at.wall) : null;
    const pixel = x === null ? NaN : axis.c2p(x);
    const inside = pixel >= -1 && pixel <= axis?._length + 1;
    this.line.hidden = this.box.hidden = !inside;
    if (!inside) return;
    const left = card.plot.offsetLeft + axis._offset + pixel;
    this.line.style.transform = `translateX(${left}px)`;
    this.line.style.top = `${card.plot._fullLayout.yaxis._offset}px`;
    this.line.style.height = `${card.plot._fullLayout.yaxis._length}px`;
    this.#fill(words(card.mode, x, card.board.unit), this.#rows(x, axis));
    const right = pixel < axis._length / 2;
    this.box.style.left = right ? "auto" : `${card.plot.offsetLeft + axis._offset + 6}px`;
    this.box.style.right = right ? "14px" : "auto";
  }

  #rows(x, axis) {
    const { card } = this;
    const rows = [];
    card.plan.forEach((part, index) => {
      const xs = card.plot.data[index]?.x;
      if (part.faint || !xs?.length) return;
      const i = nearest(xs, x);
      const smoothed = part.average ? card.plot.data[index].y[i] : null;
      const odd = card.odd.find((one) => one.name === part.trace.name && axis.c2p(one.x0) - NEAR <= axis.c2p(x) && axis.c2p(one.x1) + NEAR >= axis.c2p(x));
      const value = part.points.v[i];
      rows.push({ name: part.trace.name, colour: part.trace.meta.color, dash: part.trace.line.dash, value, smoothed, odd: odd?.kind ?? (value === null ? "nan" : null) });
    });
    const rank = (row) => row.smoothed ?? row.value ?? -Infinity;
    return card.board.several ? rows.sort((a, b) => rank(b) - rank(a)) : rows;
  }

  #fill(head, rows) {
    const { card } = this;
    const room = Math.max(2, Math.floor((card.body.clientHeight - 76) / ROW));
    const shown = rows.length > room ? rows.slice(0, room - 1) : rows;
    const format = formatter(card.figure.layout.yaxis.hoverformat ?? "");
    this.place.textContent = head;
    const lines = shown.map((row) => line(row, format));
    if (rows.length > shown.length) {
      const more = document.createElement("tr");
      const count = rows.length - shown.length;
      const cell = make("td", "faint", interpolate(ngettext("and %(count)s more", "and %(count)s more", count), { count }, true));
      cell.colSpan = 4;
      more.append(cell);
      lines.push(more);
    }
    this.table.replaceChildren(...lines);
    const said = rows.slice(0, 8).map((row) => `${row.name} ${row.odd ? SIGN[row.odd] : format(row.value)}`).join(", ");
    card.plot.setAttribute("aria-valuetext", `${head}: ${said}`);
  }
}

function line(row, format) {
  const element = document.createElement("tr");
  const sample = make("td", "");
  sample.append(make("span", swatch(row.colour, "line", row.dash)));
  element.append(sample, make("td", "name", row.name));
  element.append(row.odd ? make("td", "value odd", SIGN[row.odd]) : make("td", row.smoothed === null ? "value" : "value raw", format(row.value)));
  if (row.smoothed !== null) element.append(make("td", "value", format(row.smoothed)));
  return element;
}

// As the axis has it: "." and the number of decimals, "%" of fractions, "s" with SI prefixes; else four digits.
function formatter(pattern) {
  const digits = Number(/\.(\d)/.exec(pattern)?.[1] ?? 4);
  if (pattern.endsWith("%")) return (value) => `${(100 * value).toFixed(digits)}\u202f%`;
  if (pattern.endsWith("f")) return (value) => value.toFixed(digits);
  if (pattern.endsWith("s")) return (value) => prefixed(value, digits);
  return (value) => plain(value, digits);
}

function plain(value, digits) {
  const small = value !== 0 && Math.abs(value) < 1e-3;
  return (small ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)))).replaceAll("-", "−");
}

function prefixed(value, digits) {
  const found = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  return `${plain(value / found[0], digits)}${found[1]}`;
}
