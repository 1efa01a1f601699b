// From templates and points to the traces of a chart of curves; and the few points that arrived since.
import { along, timeUnit } from "./axis.js";
import { Average } from "./smooth.js";
import { keyOf } from "./store.js";

// Everything needed to draw `card` now. `plan` says which trace shows what, and how far it is drawn.
export function traces(card, board) {
  const shown = card.figure.data.filter((trace) => !board.isHidden(trace.meta, card));
  const sources = shown.map((trace) => card.source(keyOf(trace.meta.run, trace.meta.series)));
  const unit = unitFor(board, sources);
  const data = [], plan = [], missing = { x: [], y: [] };
  shown.forEach((trace, i) => {
    const place = along(board.mode, board.run(trace.meta.run), board.store.started.get(trace.meta.run) ?? 0, unit);
    const points = sources[i];
    const x = points.s.map((step, at) => place(step, points.w[at]));
    const average = smooths(board, points) ? new Average(board.smoothing) : null;
    if (average) {
      data.push({ ...trace, x: [...x], y: [...points.v], opacity: 0.28, hoverinfo: "skip", line: { ...trace.line, width: 1 } });
      plan.push({ points, place, average: null });
    }
    data.push({ ...trace, x, y: average ? points.v.map((value) => average.next(value)) : [...points.v], ...dots(points) });
    plan.push({ points, place, average });
    notNumbers(points, x, missing);
  });
  if (missing.x.length) data.push(marks(missing));
  for (const step of plan) Object.assign(step, { drawn: step.points.s.length, version: step.points.version });
  return { data, plan, unit, missing: missing.x.length };
}

// A few points, as of an accuracy an epoch, are not smoothed: that would draw them far from where they are.
const smooths = (board, points) => board.smoothing > 0 && points.s.length >= 100;

// A curve of one or a few points would be invisible as a line alone.
const dots = (points) => (points.s.length <= 40 ? { mode: "lines+markers", marker: { size: points.s.length === 1 ? 7 : 4 } } : {});

function unitFor(board, sources) {
  let longest = 0;
  for (const { w } of sources) if (w.length) longest = Math.max(longest, w[w.length - 1] - w[0]);
  return board.mode === "time" ? timeUnit(longest) : null;
}

// Where a value was not a number, a cross at the height of the last one that was.
function notNumbers(points, x, missing) {
  let last = null;
  points.v.forEach((value, i) => {
    if (value !== null) last = value;
    else { missing.x.push(x[i]); missing.y.push(last ?? 0); }
  });
}

const marks = ({ x, y }) => ({
  type: "scatter", mode: "markers", name: "not a number", x, y, meta: { color: "bad" },
  marker: { symbol: "x", size: 8 }, hoverinfo: "skip",
});

// What to append to each trace; null where appending is not enough and the chart is drawn anew.
export function additions(card, board) {
  const update = { x: [], y: [] }, indices = [];
  for (const [index, part] of card.plan.entries()) {
    const { points } = part;
    if (points.version !== part.version || points.s.length < part.drawn) return null;
    if (points.s.length === part.drawn) continue;
    const fresh = points.v.slice(part.drawn);
    if (fresh.includes(null) || part.drawn <= 40 || (part.drawn < 100 && smooths(board, points))) return null;
    update.x.push(points.s.slice(part.drawn).map((step, i) => part.place(step, points.w[part.drawn + i])));
    update.y.push(part.average ? fresh.map((value) => part.average.next(value)) : fresh);
    indices.push(index);
    part.drawn = points.s.length;
  }
  if (board.mode === "time" && unitFor(board, card.plan.map((part) => part.points))?.name !== card.unit?.name) return null;
  return { update, indices };
}
