// The area between the lowest and the highest that a curve has, stretch by stretch, behind its line: where the
// points are a summary the line jumps between the two, and the area says how far. It is of the points as they came,
// whatever a smoothed line does, and it stands still while live points go on beyond it: those are exact.

const MOST = 5; // curves of a chart that may have one: of more the areas hide each other
const PITCH = 3; // px that a stretch is wide, about

// How many traces, of the curves of a chart, may have a band. A schedule has no spread, and the control is the
// background of its student.
export const banded = (card, shown) => (shown.length <= MOST && !card.figure.layout.meta?.exact ? shown.filter((trace) => trace.opacity === 1) : []);

// The band as a trace that is one closed outline a piece; null where the points are not a summary.
export function band(trace, x, points, pixels, logs) {
  if (!points.summed) return null;
  const size = Math.max(2, Math.ceil((PITCH * points.summed) / Math.max(300, pixels)));
  const seen = (i) => points.v[i] !== null && (!logs.y || points.v[i] > 0) && (!logs.x || x[i] > 0);
  const outline = { x: [], y: [] };
  for (let begin = 0, i = 0; i <= points.summed; i += 1) {
    if (i < points.summed && seen(i)) continue;
    if (i - begin > 1) around(outline, x, points.v, begin, i - 1, size); // a gap ends a piece
    begin = i + 1;
  }
  const { meta, xaxis, yaxis } = trace;
  return { type: "scatter", mode: "lines", ...outline, meta: { ...meta, band: true }, xaxis, yaxis, fill: "toself", line: { width: 0 }, opacity: 0.4, zorder: -1, hoverinfo: "skip", showlegend: false };
}

// There along the highest, back along the lowest, a step a stretch; neighbours share a point, so that the line
// between them lies inside.
function around(outline, x, values, first, last, size) {
  const back = { x: [], y: [] };
  for (let begin = first; begin < last; begin += size) {
    const end = Math.min(begin + size, last);
    let low = values[begin], high = low;
    for (let i = begin + 1; i <= end; i += 1) { low = Math.min(low, values[i]); high = Math.max(high, values[i]); }
    outline.x.push(x[begin], x[end]); outline.y.push(high, high);
    back.x.push(x[begin], x[end]); back.y.push(low, low);
  }
  outline.x.push(...back.x.reverse(), null); outline.y.push(...back.y.reverse(), null);
}
