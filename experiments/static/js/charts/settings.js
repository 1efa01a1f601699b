// What the reader chose for all charts: remembered in this browser, and in the address, so that a link shows the
// same. The address has only what differs from the usual: #x=epoch&smoothing=0.9&log=xy&outliers=off&from=1&to=9

const KEY = "kd-charts";
const USUAL = { mode: "step", logX: false, logY: false, smoothing: 0, outliers: true };
const MODES = ["step", "epoch", "time", "clock"];

export function usual() { return { ...USUAL }; }

export function remembered() {
  let stored = {};
  try { stored = JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { /* nothing is kept here */ }
  const found = usual();
  for (const name of Object.keys(USUAL)) if (typeof stored[name] === typeof USUAL[name]) found[name] = stored[name];
  const { range, ...linked } = fromAddress();
  Object.assign(found, linked);
  if (!MODES.includes(found.mode)) found.mode = USUAL.mode;
  return { settings: found, range };
}

const ours = () => location.hash.includes("=");

function fromAddress() {
  if (!ours()) return {};
  const given = new URLSearchParams(location.hash.slice(1));
  const found = { ...USUAL, mode: given.get("x") ?? USUAL.mode };
  found.smoothing = Math.min(0.99, Math.max(0, Number(given.get("smoothing")) || 0));
  const log = given.get("log") ?? "";
  Object.assign(found, { logX: log.includes("x"), logY: log.includes("y"), outliers: given.get("outliers") !== "off" });
  const ends = [given.get("from"), given.get("to")].map((text) => (text === null ? NaN : Number(text)));
  return ends[0] < ends[1] ? { ...found, range: ends } : found;
}

export function remember(settings, range) {
  try { localStorage.setItem(KEY, JSON.stringify(settings)); } catch { /* not kept */ }
  if (location.hash && !ours()) return; // a link to a part of the page
  const link = new URLSearchParams();
  if (settings.mode !== USUAL.mode) link.set("x", settings.mode);
  if (settings.smoothing) link.set("smoothing", settings.smoothing.toFixed(2));
  const log = (settings.logX ? "x" : "") + (settings.logY ? "y" : "");
  if (log) link.set("log", log);
  if (!settings.outliers) link.set("outliers", "off");
  if (range) { link.set("from", short(range[0])); link.set("to", short(range[1])); }
  const hash = link.size ? `#${link}` : location.pathname + location.search;
  history.replaceState(history.state, "", hash);
}

const short = (number) => String(Number(number.toPrecision(12)));
