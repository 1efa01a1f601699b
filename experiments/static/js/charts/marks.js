// Where a run changes: a line between two stages, named on either side, and one where an attempt went on. The
// charts of steps know the place by its step, those of time by its hour.
import { nearest } from "./axis.js";

// The x of a mark in this chart, by the curve that knows the time of its steps; null where it is not reached yet.
function placed({ points, place }, mark, overTime) {
  if (!points.s.length) return null;
  if (overTime) {
    if (mark.wall === null) return null;
    return mark.wall <= points.w[points.w.length - 1] ? place(0, mark.wall) : null;
  }
  if (mark.step > points.s[points.s.length - 1]) return null;
  return place(mark.step, points.w[nearest(points.s, mark.step)]);
}

const note = (text, x, side, y) => ({
  text, x, xref: "x", xanchor: side, y, yref: "y domain", yanchor: y ? "top" : "bottom", showarrow: false, borderpad: 3, name: "ink-2", font: { size: 11 },
});

export function marked(layout, plan, logX) {
  const marks = layout.meta?.marks ?? [];
  if (!marks.length || !plan.length) return layout;
  const shapes = [...layout.shapes], annotations = [...layout.annotations];
  for (const mark of marks) {
    const x = placed(plan[0], mark, layout.meta.time);
    if (x === null || (logX && x <= 0)) continue;
    const dash = mark.kind === "stage" ? "dash" : "dot";
    shapes.push({ type: "line", name: "axis", layer: "below", xref: "x", x0: x, x1: x, yref: "y domain", y0: 0, y1: 1, line: { width: 1, dash } });
    const at = logX ? Math.log10(x) : x; // a shape takes the value, an annotation its logarithm
    if (mark.before) annotations.push(note(mark.before, at, "right", 1));
    annotations.push(note(mark.text, at, "left", mark.kind === "stage" ? 1 : 0));
  }
  return { ...layout, shapes, annotations };
}
