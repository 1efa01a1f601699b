// The controls of a page's charts. What they say is in `settings`; see settings.js.
import { remember, remembered, usual } from "./settings.js";

const SWITCHES = { "chart-log": "logY", "chart-log-x": "logX", "chart-outliers": "outliers" };

export class Toolbar {
  constructor(board) {
    this.board = board;
    this.element = board.root.querySelector("[data-chart-toolbar]");
    this.settings = usual();
    if (!this.element) return;
    const { settings, range } = remembered();
    this.settings = settings;
    this.range = range; // of the link that led here
    this.reset = this.element.querySelector("[data-chart-reset]");
    this.reset.addEventListener("click", () => board.zoom(null));
    this.element.addEventListener("input", (event) => this.#changed(event.target));
    this.#write();
  }

  #changed(input) {
    const { settings, board } = this;
    if (input.name === "chart-search") { board.find(input.value); return; }
    if (input.name === "chart-x") { settings.mode = input.value; board.zoom(null); }
    else if (input.name === "chart-smoothing") settings.smoothing = Number(input.value) / 100;
    else if (SWITCHES[input.name]) settings[SWITCHES[input.name]] = input.name === "chart-outliers" ? !input.checked : input.checked;
    this.#write();
    this.save();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => board.redraw(), 60);
  }

  save() { if (this.element) remember(this.settings, this.board.range?.ends); }

  #write() {
    const named = (name) => this.element.querySelector(`[name="${name}"]`);
    for (const input of this.element.querySelectorAll('[name="chart-x"]')) input.checked = input.value === this.settings.mode;
    for (const [name, setting] of Object.entries(SWITCHES)) named(name).checked = name === "chart-outliers" ? !this.settings[setting] : this.settings[setting];
    named("chart-smoothing").value = String(Math.round(this.settings.smoothing * 100));
    const shown = this.element.querySelector("[data-smoothing]");
    shown.textContent = this.settings.smoothing ? this.settings.smoothing.toFixed(2) : shown.dataset.off;
  }

  // Hidden, it keeps its place: nothing moves when a zoom begins.
  zoomed(yes) { if (this.reset) this.reset.disabled = !yes; }

  say(text) { const place = this.element?.querySelector("[data-chart-said]"); if (place) place.textContent = text; }

  // Epochs can be shown where every run says how many steps one has.
  offer(runs) {
    const epochs = this.element?.querySelector('[value="epoch"]');
    if (!epochs) return;
    epochs.disabled = !runs.length || runs.some((run) => !run.epoch_steps);
    if (epochs.disabled && this.settings.mode === "epoch") { this.settings.mode = "step"; this.#write(); }
  }
}
