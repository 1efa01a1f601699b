// The range of a chart without its outliers, for readers who asked for that; it says how many points lie outside.

const ENOUGH = 20; // points below which nothing is an outlier
const SHARE = 0.01; // on either side

export function withoutOutliers(curves, log) {
  const values = curves.flat().filter((value) => value !== null && (!log || value > 0)).sort((a, b) => a - b);
  if (values.length < ENOUGH) return null;
  const scale = log ? Math.log10 : (value) => value;
  const at = Math.floor(SHARE * values.length);
  const low = scale(values[at]), high = scale(values[values.length - 1 - at]);
  const room = 0.08 * (high - low || Math.abs(high) || 1);
  const range = [low - room, high + room];
  const outside = values.filter((value) => scale(value) < range[0] || scale(value) > range[1]).length;
  return outside ? { range, outside } : null;
}
