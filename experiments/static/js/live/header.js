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

const TEXT = {
  progress: (p) => `epoch ${p.epoch} of ${p.epochs} · step ${whole(p.step)} of ${whole(p.total_steps)}`,
  rate: (p) => (p.rate == null ? "" : `${rate(p.rate)} samples/s`),
  eta: (p) => (p.eta == null ? "" : `${duration(p.eta)} left`),
};

function write(element, { phase, progress }) {
  const field = element.dataset.live;
  if (field === "phase" && phase !== undefined) element.textContent = phase;
  else if (field === "bar" && progress) element.value = progress.step / Math.max(1, progress.total_steps);
  else if (TEXT[field] && progress) element.textContent = TEXT[field](progress);
}

document.addEventListener("kd:frame", ({ detail: { run, frame } }) => {
  for (const box of document.querySelectorAll(`[data-run-progress="${run}"]`)) {
    for (const element of box.querySelectorAll("[data-live]")) write(element, frame);
  }
});
