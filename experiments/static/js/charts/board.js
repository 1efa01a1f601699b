// The charts of one page: what they show together (axis, smoothing, zoom, live points) and when they draw.
import { Live } from "../live.js";
import { along, stepsWithin, timeUnit } from "./axis.js";
import { Card } from "./card.js";
import { legendItem } from "./frame.js";
import { plotly } from "./plotly.js";
import { Store, keyOf } from "./store.js";
import { Toolbar } from "./toolbar.js";

const DRAW_EVERY = 300; // ms
const MOST_NAMES = 150; // series seen live that the figures are asked for at once

export class Board {
  constructor(root) {
    this.root = root;
    this.grid = root.querySelector("[data-chart-grid]");
    this.shared = root.querySelector("[data-chart-legend]");
    this.urls = { figures: root.dataset.charts, csv: root.dataset.csv };
    this.words = { nothing: root.dataset.wordNothing, save: root.dataset.wordSave, full: root.dataset.wordFull, again: root.dataset.wordAgain, missing: root.dataset.wordMissing };
    this.name = root.dataset.name || "charts";
    this.store = new Store(root.dataset.series);
    this.cards = new Map();
    this.runs = [];
    this.off = new Set(); // runs switched off in the shared legend
    this.seen = new Set(); // series that live frames named and no figure had
    this.toolbar = new Toolbar(this);
    this.live = root.dataset.live ? new Live(root.dataset.live, () => this.refresh(), (run, frame) => this.frame(run, frame)) : null;
    this.watcher = new IntersectionObserver((entries) => entries.forEach((entry) => this.#byElement(entry.target)?.seen(entry.isIntersecting)), { rootMargin: "150px" });
    this.sizes = new ResizeObserver((entries) => entries.forEach((entry) => this.#byElement(entry.target.closest("[data-chart]"))?.resize()));
    document.addEventListener("kd:theme", () => this.redraw());
  }

  get mode() { return this.toolbar.mode; }
  get log() { return this.toolbar.log; }
  get smoothing() { return this.toolbar.smoothing; }

  plotly() { return plotly(this.root.dataset.plotly, this.root.dataset.plotlyCss); }
  run(id) { return this.runs.find((run) => run.id === id); }
  #byElement(element) { return [...this.cards.values()].find((card) => card.element === element); }

  async open() {
    this.plotly().catch(() => {}); // begins to load while the figures are asked for
    if (this.live) this.live.begin();
    else await this.refresh().catch((error) => this.#fail(error));
  }

  // Everything anew: figures, cursors, and points as charts come into sight. Gives the runs, for the live frames.
  async refresh() {
    const answer = await this.#figures();
    this.store.expire();
    this.#show(answer);
    return this.runs;
  }

  async #figures() {
    const url = new URL(this.urls.figures, location.href);
    const names = [...this.seen].slice(-MOST_NAMES);
    if (names.length) url.searchParams.set("names", names.join(","));
    return window.kd.fetchJSON(url);
  }

  #show({ runs, charts }) {
    this.runs = runs;
    this.toolbar.offer(runs);
    this.#sharedLegend();
    const known = new Set(charts.map((spec) => spec.key));
    for (const [key, card] of this.cards) if (!known.has(key)) this.#remove(key, card);
    charts.forEach((spec) => {
      const card = this.cards.get(spec.key);
      if (card) card.update(spec); else this.#add(spec);
    });
    if (!this.grid.dataset.ready) this.grid.querySelectorAll("[data-placeholder]").forEach((element) => element.remove());
    this.grid.dataset.ready = "yes";
    this.grid.append(...charts.map((spec) => this.cards.get(spec.key).element).filter((element, i) => this.grid.children[i] !== element));
  }

  #add(spec) {
    const card = new Card(this, spec);
    this.cards.set(spec.key, card);
    this.grid.append(card.element);
    this.watcher.observe(card.element);
    this.sizes.observe(card.body);
  }

  #remove(key, card) {
    this.watcher.unobserve(card.element);
    this.sizes.unobserve(card.body);
    card.element.remove();
    this.cards.delete(key);
  }

  #fail(error) {
    const words = Object.assign(document.createElement("p"), { className: "message bad", textContent: error.message });
    this.grid.replaceChildren(words);
  }

  redraw() { for (const card of this.cards.values()) card.redraw(); }

  // One legend for all charts where several runs are compared.
  #sharedLegend() {
    if (!this.shared) return;
    this.shared.replaceChildren(...this.runs.map((run) => legendItem(run.name, run.colour, !this.off.has(run.id), (event) => {
      const off = !this.off.delete(run.id);
      if (off) this.off.add(run.id);
      event.currentTarget.setAttribute("aria-pressed", String(!off));
      this.redraw();
    })));
  }

  isHidden(meta, card) {
    if (this.shared) return this.off.has(meta.run);
    const trace = card.figure.data.find((one) => one.meta === meta);
    return card.hidden.has(trace.name);
  }

  // Live points
  frame(run, frame) {
    if (!frame.points) return;
    const grown = this.store.append(run, frame.points);
    this.#unknown(run, Object.keys(frame.points));
    const touched = [...this.cards.values()].filter((card) => card.grow(run, frame.points, grown));
    if (touched.length) this.#soon();
  }

  #soon() {
    if (this.timer) return;
    const wait = Math.max(0, (this.last ?? 0) + DRAW_EVERY - performance.now());
    this.timer = setTimeout(() => {
      this.timer = null;
      this.last = performance.now();
      for (const card of this.cards.values()) if (card.curves) card.flush();
    }, wait);
  }

  // A series that no figure had: the figures are asked for again, with its name.
  #unknown(run, names) {
    const known = new Set([...this.cards.values()].flatMap((card) => card.keys));
    const fresh = names.map((name) => keyOf(run, name)).filter((key) => !known.has(key) && !this.seen.has(key));
    if (!fresh.length) return;
    fresh.forEach((key) => this.seen.add(key));
    clearTimeout(this.asking);
    this.asking = setTimeout(async () => { try { this.#show(await this.#figures()); } catch { /* the next refresh brings them */ } }, 150);
  }

  // Zoom, in all charts of the page at once
  zoom(range, source) {
    clearTimeout(this.zooming);
    this.toolbar.zoomed(range !== null);
    this.zooming = setTimeout(() => {
      for (const card of this.cards.values()) card.follow(range, source).catch((error) => window.kd.toast(error.message, { kind: "bad" }));
    }, range ? 200 : 0);
  }

  stepsOf(range, keys) {
    let first = Infinity, last = -Infinity;
    for (const key of keys) {
      const points = this.store.get(key);
      if (!points.s.length) continue;
      const run = Number(key.slice(0, key.indexOf(":")));
      const unit = this.mode === "time" ? this.#unit(keys) : null;
      const [from, to] = this.mode === "step" ? range : stepsWithin(range, points, along(this.mode, this.run(run), this.store.started.get(run) ?? 0, unit));
      first = Math.min(first, from);
      last = Math.max(last, to);
    }
    return first <= last ? [first, last] : null;
  }

  #unit(keys) {
    const longest = Math.max(0, ...keys.map((key) => this.store.get(key)).filter((one) => one.w.length).map(({ w }) => w[w.length - 1] - w[0]));
    return timeUnit(longest);
  }

  csvUrl(keys) {
    const part = (place) => [...new Set(keys.map((key) => (place ? key.slice(key.indexOf(":") + 1) : key.slice(0, key.indexOf(":")))))].join(",");
    return `${this.urls.csv}?${new URLSearchParams({ runs: part(0), name: part(1) })}`;
  }

  // A click on a point that stands for a run or a teacher opens it.
  opened(point) {
    const pattern = { runs: this.root.dataset.runPage, teachers: this.root.dataset.teacherPage }[point?.data?.meta?.opens];
    if (pattern && point.customdata) location.assign(pattern.replace("/0/", `/${point.customdata}/`));
  }
}
