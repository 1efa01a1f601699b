// One chart: its frame, its drawing, its zoom. Draws only while it is on the screen, one thing at a time.
import { xaxis } from "./axis.js";
import { additions, traces } from "./curves.js";
import { download } from "./export.js";
import { frame, legend, message, missingNote } from "./frame.js";
import { staged } from "./stages.js";
import { extend, keyOf } from "./store.js";
import { dress, palette } from "./theme.js";

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: false, showTips: false, doubleClick: "autosize" };
const coarse = matchMedia("(pointer: coarse)");

export class Card {
  constructor(board, spec) {
    this.board = board;
    this.visible = this.drawn = false;
    this.stale = true;
    this.window = null; // the part zoomed into: { range, last, points }
    this.hidden = new Set(); // names of traces that were switched off
    this.plan = [];
    this.busy = Promise.resolve();
    Object.assign(this, frame(spec, this)); // element, body, plot, legendList
    this.update(spec);
  }

  get curves() { return this.spec.kind === "curves"; }
  get figure() { return this.spec.figure; }
  get keys() { return this.figure && this.curves ? this.figure.data.map(({ meta }) => keyOf(meta.run, meta.series)) : []; }

  update(spec) {
    this.spec = spec;
    legend(this);
    this.redraw();
  }

  source(key) { return this.window?.points.get(key) ?? this.board.store.get(key); }

  // Drawing, in order: a new request waits for the one under way, and several waiting ones are one.
  redraw() {
    this.stale = true;
    this.#enqueue();
  }

  #enqueue() {
    if (!this.visible || this.queued) return;
    this.queued = true;
    this.busy = this.busy.then(() => { this.queued = false; return this.#draw(); })
      .catch((error) => message(this, error.message, () => this.redraw()));
  }

  async #draw() {
    if (!this.figure) { this.stale = false; message(this, this.spec.empty); return; }
    const [Plotly] = await Promise.all([this.board.plotly(), this.board.store.load(this.keys)]);
    if (this.keys.length && this.keys.every((key) => !this.source(key).s.length)) {
      message(this, this.board.words.nothing);
      return;
    }
    if (!this.stale && this.drawn) { await this.#append(Plotly); return; }
    this.stale = false;
    message(this, "");
    const { data, layout } = this.#figure();
    await Plotly.react(this.plot, data, layout, CONFIG);
    if (!this.drawn) this.plot.on("plotly_relayout", (event) => this.#moved(event));
    if (!this.drawn) this.plot.on("plotly_click", (event) => this.board.opened(event.points[0]));
    this.drawn = true;
    this.element.removeAttribute("aria-busy");
  }

  async #append(Plotly) {
    const more = additions(this, this.board);
    if (more === null) { this.stale = true; await this.#draw(); return; }
    if (more.indices.length) await Plotly.extendTraces(this.plot, more.update, more.indices);
  }

  #figure() {
    let { data, layout } = this.figure;
    if (this.curves) {
      const made = traces(this, this.board);
      this.plan = made.plan;
      this.unit = made.unit;
      missingNote(this, made.missing);
      data = made.data;
      const log = this.board.log && layout.meta?.log;
      layout = { ...layout, xaxis: { ...layout.xaxis, ...xaxis(this.board.mode, made.unit) }, yaxis: { ...layout.yaxis, type: log ? "log" : "linear" } };
      layout = staged(layout, made.plan);
      if (this.window) Object.assign(layout.xaxis, { range: this.window.range, autorange: false });
    } else {
      data = data.filter((trace) => !this.hidden.has(trace.name));
    }
    const dressed = dress({ data, layout }, palette(), this.plot.clientWidth < 480);
    if (coarse.matches) dressed.layout.dragmode = false; // a finger scrolls the page
    dressed.layout.uirevision = `${this.board.mode} ${this.board.log} ${this.window ? "zoomed" : "whole"}`;
    return dressed;
  }

  // What is shown now as a picture of its own: one size, with its title and legend.
  picture() {
    const { data, layout } = this.#figure();
    const title = { text: this.spec.title, font: { size: 16 }, x: 0.02, xanchor: "left" };
    const legend = { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom" };
    const margin = { ...layout.margin, l: 64, t: 64, r: 24 };
    return { data, layout: { ...layout, title, legend, margin, showlegend: data.length > 1, width: 960, height: 540 } };
  }

  save(kind) { return download(this, kind); }

  // Live points: `keys` grew.
  grow(run, points, keys) {
    if (!this.keys.some((key) => keys.includes(key))) return false;
    if (this.window) {
      for (const [name, block] of Object.entries(points)) {
        const held = this.window.points.get(keyOf(run, name));
        if (held) extend(held, block, this.window.last);
      }
    }
    return true;
  }

  flush() { this.#enqueue(); }

  // Zoom
  #moved(event) {
    if (this.following || !this.curves) return;
    if (event["xaxis.range[0]"] !== undefined) {
      const range = [event["xaxis.range[0]"], event["xaxis.range[1]"]];
      this.board.zoom(this.board.mode === "clock" ? range.map((text) => Date.parse(`${String(text).replace(" ", "T")}Z`)) : range, this);
    } else if (event["xaxis.autorange"]) this.board.zoom(null, this);
  }

  async follow(range, source) {
    if (!this.curves) return;
    if (range === null) this.window = null;
    else await this.#load(range);
    if (this !== source || range === null || this.window) this.redraw();
  }

  async #load(range) {
    const steps = this.board.stepsOf(range, this.keys);
    if (!steps) { this.window = null; return; }
    const width = Math.max(1000, Math.min(2000, this.plot.clientWidth));
    const points = this.visible ? await this.board.store.window(this.keys, steps[0], steps[1], width) : new Map();
    for (const key of this.keys) points.set(key, { s: [], v: [], w: [], version: 0, ...points.get(key) });
    this.window = { range, last: steps[1], points };
  }

  seen(visible) {
    const arrives = visible && !this.visible;
    this.visible = visible;
    if (!arrives) return;
    if (this.window && ![...this.window.points.values()].some((one) => one.s.length)) this.follow(this.window.range);
    else this.#enqueue();
  }

  async resize() {
    if (!this.drawn || !this.visible) return;
    const Plotly = await this.board.plotly();
    this.busy = this.busy.then(() => Plotly.Plots.resize(this.plot)).catch(() => {});
  }
}
