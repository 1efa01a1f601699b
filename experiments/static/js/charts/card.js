// One chart: its frame, its drawing, its zoom. Draws only while it is on the screen, one thing at a time.
import { fromShared, modeOf, nearest, stepsWithin, toShared, xaxis } from "./axis.js";
import { additions, traces } from "./curves.js";
import { download } from "./export.js";
import { frame, legend, message, notes } from "./frame.js";
import { marked } from "./marks.js";
import { edgeAxis } from "./odd.js";
import { withoutOutliers } from "./outliers.js";
import { extend, keyOf } from "./store.js";
import { dress, palette } from "./theme.js";

const CONFIG = { displayModeBar: false, displaylogo: false, responsive: false, showTips: false, doubleClick: "autosize" };
const coarse = matchMedia("(pointer: coarse)");

export class Card {
  constructor(board, spec) {
    this.board = board;
    this.visible = this.drawn = false;
    this.stale = true;
    this.followed = null; // the board's range that `window` belongs to
    this.window = null; // the part zoomed into: { range, steps, points }
    this.hidden = new Set(); // names of traces that were switched off
    this.plan = [];
    this.odd = [];
    this.busy = Promise.resolve();
    Object.assign(this, frame(spec, this)); // element, body, plot, legendList, notes, tools, waiting
    this.update(spec);
  }

  get curves() { return this.spec.kind === "curves"; }
  get figure() { return this.spec.figure; }
  get keys() { return this.figure && this.curves ? this.figure.data.map(({ meta }) => keyOf(meta.run, meta.series)) : []; }
  get mode() { return modeOf(this.figure, this.board.settings.mode); }

  update(spec) {
    this.spec = spec;
    const names = (spec.figure?.data ?? []).map((trace) => `${trace.name} ${trace.meta?.series ?? ""}`);
    this.text = [spec.title, spec.section, ...names].join(" ").toLowerCase(); // what a search looks through
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
    this.board.measure();
    if (this.curves && this.followed !== this.board.range) await this.#follow(this.board.range);
    if (this.keys.length && this.keys.every((key) => !this.source(key).s.length)) {
      message(this, this.window ? gettext("No points in this part.") : this.board.over ? gettext("No points.") : gettext("No points yet."));
      return;
    }
    await this.board.turns.take(() => this.#now(Plotly));
    if (!this.drawn) return;
    this.element.removeAttribute("aria-busy");
    this.board.cursor.refresh(this);
  }

  #now(Plotly) {
    if (!this.visible) return null; // scrolled away while it waited: it draws when it comes back
    if (this.stale || !this.drawn) return this.#whole(Plotly);
    const more = this.board.settings.outliers ? additions(this) : null;
    if (more === null) return this.#whole(Plotly);
    return more.indices.length ? Plotly.extendTraces(this.plot, more.update, more.indices) : null;
  }

  #whole(Plotly) {
    this.stale = false;
    message(this, "");
    const { data, layout } = this.#figure();
    const done = Plotly.react(this.plot, data, layout, CONFIG);
    if (!this.drawn) this.plot.on("plotly_relayout", (event) => this.#moved(event));
    if (!this.drawn) this.plot.on("plotly_click", (event) => this.board.opened(event.points[0]));
    this.drawn = true;
    return done;
  }

  #figure() {
    let { data, layout } = this.figure;
    if (this.curves) ({ data, layout } = this.#curves());
    else data = data.filter((trace) => !this.hidden.has(trace.name) && !this.board.off.has(trace.meta?.run));
    const dressed = dress({ data, layout }, palette(), this.plot.clientWidth < 480);
    if (coarse.matches) dressed.layout.dragmode = false; // a finger scrolls the page
    return dressed;
  }

  #curves() {
    const { board } = this;
    const { logX, logY, outliers } = board.settings;
    const logs = { x: logX && this.mode !== "clock", y: logY && Boolean(this.figure.layout.meta?.log) };
    Object.assign(this, traces(this, board, logs)); // data, plan, odd
    const given = this.figure.layout;
    let layout = { ...given, hovermode: false, xaxis: { ...given.xaxis, ...xaxis(this.mode, board.unit, logs.x) }, yaxis: { ...given.yaxis, type: logs.y ? "log" : "linear" } };
    const cut = outliers ? null : withoutOutliers(this.plan.filter((part) => part.average || !part.faint).map((part) => part.points.v), logs.y);
    if (cut) Object.assign(layout.yaxis, { range: cut.range, autorange: false });
    if (this.odd.length) layout.yaxis2 = edgeAxis();
    layout = marked(layout, this.plan, logs.x);
    if (this.window) Object.assign(layout.xaxis, { range: logs.x ? this.window.range.map((x) => Math.log10(Math.max(x, 1e-9))) : this.window.range, autorange: false });
    notes(this, this.odd, cut?.outside ?? 0);
    const form = `${this.mode} ${logs.x} ${logs.y} ${cut ? "cut" : "all"} ${board.resets}`;
    layout.uirevision = form;
    layout.xaxis.uirevision = `${form} ${this.window?.range ?? "whole"}`;
    return { data: this.data, layout };
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

  // The curve that knows most places: what a cursor and a zoom go by.
  main() {
    let found = null;
    this.plan.forEach((part, index) => {
      const x = this.plot.data?.[index]?.x;
      if (!part.faint && x?.length && x.length > (found?.x.length ?? 0)) found = { x, points: part.points, place: part.place };
    });
    return found;
  }

  // A place that another chart gave, in shared units and as a time, along this chart's axis; null where unknown.
  placeOf(mode, x, wall) {
    if (mode === this.mode) return fromShared(mode, x, this.board.unit);
    const main = this.main();
    if (!main || !Number.isFinite(wall)) return null;
    const i = nearest(main.points.w, wall);
    return ["time", "clock"].includes(this.mode) ? main.place(main.points.s[i], wall) : main.x[Math.min(i, main.x.length - 1)];
  }

  // Live points: `keys` grew.
  grow(run, points, keys) {
    if (!this.keys.some((key) => keys.includes(key))) return false;
    if (this.window) {
      for (const [name, block] of Object.entries(points)) {
        const held = this.window.points.get(keyOf(run, name));
        if (held) extend(held, block, this.window.steps[1]);
      }
    }
    return true;
  }

  // Gives the drawing, to wait for.
  flush() { this.#enqueue(); return this.busy; }

  // Zoom
  #moved(event) {
    if (!this.curves) return;
    if (event["xaxis.autorange"]) { this.board.zoom(null); return; }
    if (event["xaxis.range[0]"] === undefined) return;
    const ends = [event["xaxis.range[0]"], event["xaxis.range[1]"]].map((end) => this.#number(end));
    const main = this.main();
    const walls = ends.map((x) => main?.points.w[nearest(main.x, x)]);
    this.board.zoom({ mode: this.mode, ends: ends.map((x) => toShared(this.mode, x, this.board.unit)), walls });
  }

  // An end of the axis as Plotly says it: a date as text, a logarithm.
  #number(end) {
    if (this.mode === "clock") return Date.parse(`${String(end).replace(" ", "T")}Z`);
    return this.plot._fullLayout.xaxis.type === "log" ? 10 ** end : end;
  }

  async #follow(range) {
    this.window = range ? await this.#load(range) : null;
    this.followed = range;
    this.stale = true;
  }

  async #load({ mode, ends, walls }) {
    const { board } = this;
    const range = ends.map((end, i) => this.placeOf(mode, end, walls?.[i]));
    if (range.includes(null)) return null;
    const steps = this.#steps(range);
    if (!steps) return null;
    const width = Math.max(1000, Math.min(2000, this.plot.clientWidth));
    const points = await board.store.window(this.keys, steps[0], steps[1], width);
    for (const key of this.keys) points.set(key, { s: [], v: [], w: [], odd: [], version: 0, ...points.get(key) });
    return { range, steps, points };
  }

  #steps(range) {
    if (this.mode === "step") return range;
    let first = Infinity, last = -Infinity;
    for (const key of this.keys) {
      const points = this.board.store.get(key);
      if (!points.s.length) continue;
      const [from, to] = stepsWithin(range, points, this.board.placing(this.mode, Number(key.slice(0, key.indexOf(":")))));
      first = Math.min(first, from);
      last = Math.max(last, to);
    }
    return first <= last ? [first, last] : null;
  }

  seen(visible) {
    const arrives = visible && !this.visible;
    this.visible = visible;
    if (arrives) this.#enqueue();
  }

  async resize() {
    if (!this.drawn || !this.visible) return;
    const Plotly = await this.board.plotly();
    this.busy = this.busy.then(() => Plotly.Plots.resize(this.plot)).catch(() => {});
  }
}
