// The list of runs as the legend of all charts. An eye shows or hides its run (the charts listen to the button);
// pointing at a run, in the list or in the table, lets the others fade.
import { remember } from "./address.js";

export function list(root) {
  const eyes = [...root.querySelectorAll("[data-run-eye]")];
  const shown = (eye) => eye.getAttribute("aria-pressed") !== "false";
  const show = (wanted) => { for (const eye of eyes) if (shown(eye) !== wanted(Number(eye.dataset.runEye))) eye.click(); };

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-run-eye]")) {
      remember("hide", eyes.filter((eye) => !shown(eye)).map((eye) => eye.dataset.runEye).join(","));
      return;
    }
    const only = event.target.closest?.("[data-only]");
    if (only) show((run) => run === Number(only.dataset.only));
    if (event.target.closest?.("[data-show-all]")) { event.preventDefault(); show(() => true); }
  });
  const hidden = new Set([...root.querySelectorAll("[data-hidden]")].map((item) => Number(item.dataset.run)));
  if (hidden.size) show((run) => !hidden.has(run));
  pointing(root);
  if (matchMedia("(max-width: 1099px)").matches && eyes.length > 6) root.querySelector("[data-compare-list]").open = false;
}

function pointing(root) {
  let lit = null;
  const light = (event) => {
    const run = Number(event.target.closest?.("[data-run]")?.dataset.run) || null;
    if (run === lit) return;
    lit = run;
    for (const line of root.querySelectorAll("[data-run]")) line.classList.toggle("lit", Number(line.dataset.run) === lit);
    for (const plot of root.querySelectorAll(".chart-plot")) fade(plot, lit);
  };
  root.addEventListener("pointerover", light);
  root.addEventListener("focusin", light);
  root.addEventListener("pointerleave", () => light({ target: document.body }));
}

// Straight on the drawing: to draw fifty curves anew would be too slow for a pointer that only passes by.
function fade(plot, lit) {
  for (const trace of plot._fullData ?? []) {
    const element = trace.uid && plot.querySelector(`.trace${CSS.escape(trace.uid)}`);
    const other = lit !== null && trace.meta?.run !== undefined && trace.meta.run !== lit;
    if (element) element.style.opacity = other ? "0.1" : String(trace.opacity ?? 1);
  }
}
