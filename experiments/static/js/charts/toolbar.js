// What the reader chose for all charts of a page; remembered in this browser.

const KEY = "kd-charts";

export class Toolbar {
  constructor(board) {
    this.element = board.root.querySelector("[data-chart-toolbar]");
    const { mode = "step", log = false, smoothing = 0 } = remembered();
    Object.assign(this, { mode, log, smoothing });
    if (!this.element) { Object.assign(this, { mode: "step", log: false, smoothing: 0 }); return; }
    this.reset = this.element.querySelector("[data-chart-reset]");
    this.reset.addEventListener("click", () => board.zoom(null));
    this.element.addEventListener("input", (event) => this.#changed(event.target, board));
    this.#write();
  }

  #changed(input, board) {
    if (input.name === "chart-x") { this.mode = input.value; board.zoom(null); }
    else if (input.name === "chart-log") this.log = input.checked;
    else if (input.name === "chart-smoothing") this.smoothing = Number(input.value) / 100;
    this.#write();
    try { localStorage.setItem(KEY, JSON.stringify({ mode: this.mode, log: this.log, smoothing: this.smoothing })); } catch { /* not kept */ }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => board.redraw(), 60);
  }

  #write() {
    for (const input of this.element.querySelectorAll('[name="chart-x"]')) input.checked = input.value === this.mode;
    this.element.querySelector('[name="chart-log"]').checked = this.log;
    this.element.querySelector('[name="chart-smoothing"]').value = String(Math.round(this.smoothing * 100));
    const shown = this.element.querySelector("[data-smoothing]");
    shown.textContent = this.smoothing ? this.smoothing.toFixed(2) : shown.dataset.off;
  }

  zoomed(yes) { if (this.reset) this.reset.hidden = !yes; }

  // Epochs can be shown where every run says how many steps one has.
  offer(runs) {
    const epochs = this.element?.querySelector('[value="epoch"]');
    if (!epochs) return;
    epochs.disabled = !runs.length || runs.some((run) => !run.epoch_steps);
    if (epochs.disabled && this.mode === "epoch") { this.mode = "step"; this.#write(); }
  }
}

function remembered() {
  try { return JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { return {}; }
}
