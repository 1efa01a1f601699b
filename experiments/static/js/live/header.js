// Keeps the numbers of a run's header fresh: elements with data-live="phase|bar|progress|rate|eta" inside
// data-run-progress="<id>". What changes with the state is fetched anew by htmx (kd:run-state).

const NBSP = "\u00a0";
const whole = (value) => Number(value).toLocaleString("en").replaceAll(",", "\u202f");

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}${NBSP}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${NBSP}min ${s % 60}${NBSP}s`;
  return `${Math.floor(s / 3600)}${NBSP}h ${Math.floor((s % 3600) / 60)}${NBSP}min`;
}

function rate(value) {
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}${NBSP}M`;
  return value >= 1000 ? `${(value / 1000).toPrecision(3)}${NBSP}k` : value.toPrecision(3);
}

const WORDS = gettext("epoch %(epoch)s of %(epochs)s · step %(step)s of %(steps)s");
const TEXT = {
  progress: (p) => interpolate(WORDS, { ...p, step: whole(p.step), steps: whole(p.total_steps) }, true),
  rate: (p) => (p.rate == null ? "" : interpolate(gettext("%s samples/s"), [rate(p.rate)])),
  eta: (p) => (p.eta == null ? "" : interpolate(gettext("%s left"), [duration(p.eta)])),
};
// The engine's phases come in English, as `name` or `name: detail`.
const PHASES = {
  starting: gettext("starting"), Starting: gettext("Starting"), data: gettext("data"), model: gettext("model"),
  teacher: gettext("teacher"), training: gettext("training"), evaluation: gettext("evaluation"),
  compression: gettext("compression"), "Waiting for a worker": gettext("Waiting for a worker"),
  "on the test split": gettext("on the test split"), "on the val split": gettext("on the val split"),
};
const spoken = (text) => text.split(": ").map((part) => PHASES[part] ?? part).join(": ");

function write(element, { phase, progress }) {
  const field = element.dataset.live;
  if (field === "phase" && phase !== undefined) element.textContent = spoken(phase);
  else if (field === "bar" && progress) element.value = progress.step / Math.max(1, progress.total_steps);
  else if (TEXT[field] && progress) element.textContent = TEXT[field](progress);
}

document.addEventListener("kd:frame", ({ detail: { run, frame } }) => {
  for (const box of document.querySelectorAll(`[data-run-progress="${run}"]`)) {
    for (const element of box.querySelectorAll("[data-live]")) write(element, frame);
  }
});
