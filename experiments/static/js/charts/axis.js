// What the x axis shows: steps, epochs, time since the start, or the clock. What charts of a page share (zoom,
// cursor, links) is kept in units that no chart changes: steps, epochs, seconds, Unix time.

// Device series have seconds for steps: their axis is always time.
export const modeOf = (figure, mode) => (figure?.layout.meta?.time && mode !== "clock" ? "time" : mode);

const titles = (unit) => ({ step: gettext("step"), epoch: gettext("epoch"), time: interpolate(gettext("time (%(unit)s)"), { unit: unit.name }, true), clock: gettext("time of day") });

// Seconds, minutes or hours: whichever keeps the numbers small.
export function timeUnit(seconds) {
  if (seconds < 180) return { per: 1, name: "s" };
  return seconds < 3 * 3600 ? { per: 60, name: "min" } : { per: 3600, name: "h" };
}

// Plotly's dates know no time zone: the clock is moved so that it shows the reader's.
const zone = (ms) => new Date(ms).getTimezoneOffset() * 60000;
const local = (wall) => wall * 1000 - zone(wall * 1000);

export function toShared(mode, x, unit) {
  if (mode === "time") return x * unit.per;
  return mode === "clock" ? (x + zone(x)) / 1000 : x;
}

export function fromShared(mode, x, unit) {
  if (mode === "time") return x / unit.per;
  return mode === "clock" ? local(x) : x;
}

// Points → numbers along the axis, for one run.
export function along(mode, run, started, unit) {
  if (mode === "epoch" && run?.epoch_steps) return (step) => step / run.epoch_steps;
  if (mode === "time") return (_, wall) => (wall - started) / unit.per;
  if (mode === "clock") return (_, wall) => local(wall);
  return (step) => step;
}

// Of rising numbers the place of the nearest.
export function nearest(rising, wanted) {
  let low = 0, high = rising.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle] < wanted) low = middle + 1; else high = middle;
  }
  return low > 0 && wanted - rising[low - 1] <= rising[low] - wanted ? low - 1 : low;
}

// The steps that a window of the axis covers, a little more on either side.
export function stepsWithin(range, points, place) {
  let first = Infinity, last = -Infinity;
  const xs = points.s.map((step, i) => place(step, points.w[i]));
  for (let i = 0; i < xs.length; i += 1) {
    if (xs[i] < range[0] || xs[i] > range[1]) continue;
    first = Math.min(first, points.s[Math.max(0, i - 1)]);
    last = Math.max(last, points.s[Math.min(xs.length - 1, i + 1)]);
  }
  if (first === Infinity) { // between two known points
    const after = xs.findIndex((x) => x > range[1]);
    if (after > 0) [first, last] = [points.s[after - 1], points.s[after]];
  }
  return [first, last];
}

export function xaxis(mode, unit, log) {
  const type = mode === "clock" ? "date" : log ? "log" : "linear";
  const axis = { title: { text: titles(unit)[mode] }, type, rangemode: type === "linear" ? "tozero" : "normal" };
  if (mode === "step" && type === "linear") Object.assign(axis, { tickformat: "~s", exponentformat: "SI" });
  if (type === "log") Object.assign(axis, { dtick: 1, tickformat: "~s" });
  return axis;
}

// "step 1,234", "epoch 3.20", "12.3 min", "14:03:22"
export function words(mode, x, unit) {
  if (mode === "step") return interpolate(gettext("step %(number)s"), { number: Math.round(x).toLocaleString("en") }, true);
  if (mode === "epoch") return interpolate(gettext("epoch %(number)s"), { number: x.toFixed(2) }, true);
  if (mode === "time") return `${x.toFixed(unit.per === 1 ? 1 : 2)}\u00a0${unit.name}`;
  return new Date(x).toISOString().slice(11, 19); // of the clock that was moved: see above
}
