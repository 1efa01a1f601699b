// What the x axis shows: steps, epochs, time since the start, or the clock.

export const AXES = {
  step: { title: "step", hover: "step %{x:,}" },
  epoch: { title: "epoch", hover: "epoch %{x:.2f}" },
  time: { title: "time", hover: "%{x:.2f}" },
  clock: { title: "time of day", hover: "%{x|%H:%M:%S}" },
};

// Seconds, minutes or hours: whichever keeps the numbers small.
export function timeUnit(seconds) {
  if (seconds < 180) return { per: 1, name: "s" };
  return seconds < 3 * 3600 ? { per: 60, name: "min" } : { per: 3600, name: "h" };
}

// Plotly's dates know no time zone: the clock is moved so that it shows the reader's.
const local = (wall) => wall * 1000 - new Date(wall * 1000).getTimezoneOffset() * 60000;

// Points → numbers along the axis, for one run.
export function along(mode, run, started, unit) {
  if (mode === "epoch" && run?.epoch_steps) return (step) => step / run.epoch_steps;
  if (mode === "time") return (_, wall) => (wall - started) / unit.per;
  if (mode === "clock") return (_, wall) => local(wall);
  return (step) => step;
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

export function xaxis(mode, unit) {
  const { title, hover } = AXES[mode];
  const axis = { title: { text: mode === "time" ? `time (${unit.name})` : title }, type: mode === "clock" ? "date" : "linear", rangemode: mode === "clock" ? "normal" : "tozero" };
  axis.unifiedhovertitle = { text: mode === "time" ? `${hover} ${unit.name}` : hover };
  if (mode === "step") Object.assign(axis, { tickformat: "~s", exponentformat: "SI" });
  return axis;
}
