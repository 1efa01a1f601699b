// From templates and points to the traces of a chart of curves; and the few points that arrived since.
import { band, banded } from "./band.js";
import { oddities, oddTraces } from "./odd.js";
import { Average } from "./smooth.js";
import { keyOf } from "./store.js";

// Everything needed to draw `card` now. `plan` says which trace shows what, and how far it is drawn.
export function traces(card, board, logs) {
  const shown = card.figure.data.filter((trace) => !board.isHidden(trace.meta, card));
  const data = [], plan = [], odd = [], bands = [];
  const wanted = banded(card, shown);
  for (const trace of shown) {
    const points = card.source(keyOf(trace.meta.run, trace.meta.series));
    const place = board.placing(card.mode, trace.meta.run);
    const x = points.s.map((step, at) => place(step, points.w[at]));
    if (wanted.includes(trace)) bands.push(band(trace, x, points, card.plot.clientWidth, logs));
    const average = smooths(card, points) ? new Average(board.settings.smoothing, points.s) : null;
    if (average) {
      data.push({ ...trace, x: [...x], y: [...points.v], opacity: 0.28, hoverinfo: "skip", showlegend: false, line: { ...trace.line, width: 1 } });
      plan.push({ points, place, trace, average: null, faint: true });
    }
    data.push({ ...trace, x, y: average ? points.v.map((value, i) => average.next(value, points.s[i])) : [...points.v], ...dots(points) });
    plan.push({ points, place, trace, average, faint: false });
    odd.push(...oddities(points, place, trace.name, card.window?.steps));
  }
  for (const part of plan) Object.assign(part, { drawn: part.points.s.length, version: part.points.version, odd: part.points.odd.length });
  return { data: [...data, ...bands.filter(Boolean), ...oddTraces(odd)], plan, odd };
}

// A few points, as of an accuracy an epoch, are not smoothed: that would draw them far from where they are. Nor is
// what has no noise, such as a learning rate.
const smooths = ({ board, figure }, points) => board.settings.smoothing > 0 && points.s.length >= 100 && !figure.layout.meta?.exact;

// A curve of one or a few points would be invisible as a line alone.
const dots = (points) => (points.s.length <= 40 ? { mode: "lines+markers", marker: { size: points.s.length === 1 ? 7 : 4 } } : {});

// What to append to each trace; null where appending is not enough and the chart is drawn anew.
export function additions(card) {
  const update = { x: [], y: [] }, indices = [];
  for (const [index, part] of card.plan.entries()) {
    const { points } = part;
    if (points.version !== part.version || points.s.length < part.drawn || points.odd.length !== part.odd) return null;
    if (points.s.length === part.drawn) continue;
    const fresh = points.v.slice(part.drawn);
    if (part.drawn <= 40 || (part.drawn < 100 && smooths(card, points))) return null;
    const steps = points.s.slice(part.drawn);
    update.x.push(steps.map((step, i) => part.place(step, points.w[part.drawn + i])));
    update.y.push(part.average ? fresh.map((value, i) => part.average.next(value, steps[i])) : fresh);
    indices.push(index);
    part.drawn = points.s.length;
  }
  return { update, indices };
}
