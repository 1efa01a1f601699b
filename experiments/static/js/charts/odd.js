// Where a series is not a number or not finite. The server says it as ranges of steps, whatever it thinned; live
// frames as single steps. A chart marks them at its edge: what became infinite at the top, the rest at the bottom.

const KEPT = 300; // ranges a series keeps in the page; beyond, the last one grows

export const SIGN = { nan: "NaN", inf: "∞", "-inf": "−∞" };
const SYMBOL = { nan: "x", inf: "triangle-up", "-inf": "triangle-down" };
const HEIGHT = { nan: 0.03, inf: 0.97, "-inf": 0.03 };

// [[step, kind], …] of a live frame, of steps beyond `after`.
export function noteOdd(series, news, after) {
  for (const [step, kind] of news ?? []) {
    if (step <= after) continue;
    const last = series.odd[series.odd.length - 1];
    if (last && last[2] === kind && (step - last[1] <= 1 || series.odd.length >= KEPT)) last[1] = step;
    else series.odd.push([step, step, kind]);
  }
}

// The ranges of a curve, with every gap that nobody explained as "nan".
function ranges(points) {
  const known = points.odd ?? [];
  const found = [...known];
  let at = 0;
  points.v.forEach((value, i) => {
    if (value !== null) return;
    const step = points.s[i];
    while (at < known.length && known[at][1] < step) at += 1;
    if (at < known.length && known[at][0] <= step) return;
    const last = found[found.length - 1];
    if (last && last[2] === "nan" && i > 0 && last[1] === points.s[i - 1]) last[1] = step;
    else found.push([step, step, "nan"]);
  });
  return found;
}

// Where the ranges of one curve lie along the axis: [{x0, x1, kind, step, name}]. A step that was thinned away has
// the time of its nearest neighbour.
export function oddities(points, place, name, window) {
  if (!points.s.length && !(points.odd ?? []).length) return [];
  const wallOf = (step) => {
    let low = 0, high = points.s.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (points.s[middle] < step) low = middle + 1; else high = middle; }
    return points.w[low] ?? 0;
  };
  return ranges(points)
    .filter(([first, last]) => !window || (last >= window[0] && first <= window[1]))
    .map(([first, last, kind]) => ({ x0: place(first, wallOf(first)), x1: place(last, wallOf(last)), kind, first, last, name }));
}

// Traces on an axis of their own from 0 to 1: the edge stays the edge whatever the curves do.
export function oddTraces(found) {
  const kinds = Object.keys(SIGN).filter((kind) => found.some((one) => one.kind === kind));
  return kinds.map((kind) => {
    const x = [], y = [];
    for (const one of found) {
      if (one.kind !== kind) continue;
      x.push(one.x0); y.push(HEIGHT[kind]);
      if (one.x1 > one.x0) { x.push(one.x1); y.push(HEIGHT[kind]); }
      x.push(null); y.push(null);
    }
    return {
      type: "scatter", mode: "lines+markers", name: SIGN[kind], x, y, yaxis: "y2", hoverinfo: "skip", cliponaxis: false,
      meta: { color: "bad", odd: true }, line: { width: 2 }, marker: { symbol: SYMBOL[kind], size: 8 },
    };
  });
}

export const edgeAxis = () => ({ overlaying: "y", range: [0, 1], visible: false, fixedrange: true });
