// The charts of one page: what they show together (axis, smoothing, zoom, cursor, live points) and when they draw.
import { ENDED, Live } from "../live.js";
import { Arrangement } from "./arrange.js";
import { along, timeUnit } from "./axis.js";
import { Card } from "./card.js";
import { Cursor } from "./cursor.js";
import { plotly } from "./plotly.js";
import { Store, keyOf } from "./store.js";
import { Toolbar } from "./toolbar.js";
import { Turns } from "./turns.js";

const DRAW_EVERY = 300; // ms
const MOST_NAMES = 150; // series seen live that the figures are asked for at once
const SETTLE = 1500; // ms after which a new phase is in the database

export class Board {
  constructor(root) {
    this.root = root;
    this.grid = root.querySelector("[data-chart-grid]");
    this.urls = { figures: root.dataset.charts, csv: root.dataset.csv };
    this.name = root.dataset.name || "charts";
    this.store = new Store(root.dataset.series);
    this.cards = new Map();
    this.runs = [];
    this.off = new Set(); // runs switched off in the page's list
    this.seen = new Set(); // series that live frames named and no figure had
    this.phases = new Map(); // run → what it does now
    this.resets = 0;
    this.unit = timeUnit(0);
    this.turns = new Turns();
    this.arrangement = new Arrangement(this);
    this.cursor = new Cursor(this);
    this.toolbar = new Toolbar(this);
    this.range = this.#linked();
    this.live = root.dataset.live ? new Live(root.dataset.live, () => this.refresh(), (run, frame) => this.frame(run, frame)) : null;
    this.watcher = new IntersectionObserver((entries) => entries.forEach((entry) => this.#byElement(entry.target)?.seen(entry.isIntersecting)), { rootMargin: "150px" });
    this.sizes = new ResizeObserver((entries) => entries.forEach((entry) => this.#byElement(entry.target.closest("[data-chart]"))?.resize()));
    document.addEventListener("kd:theme", () => this.redraw());
    root.addEventListener("kd:figures", () => this.renew());
    if (this.several) document.addEventListener("click", (event) => this.#looked(event));
  }

  get settings() { return this.toolbar.settings; }
  get several() { return this.root.dataset.several !== undefined; } // the page's list of runs is the legend

  plotly() { return plotly(this.root.dataset.plotly, this.root.dataset.plotlyCss); }
  // All runs have ended: what lacks will not come.
  get over() { return this.runs.every((run) => ENDED.has(run.state.status)); }
  run(id) { return this.runs.find((run) => run.id === id); }
  placing(mode, run) { return along(mode, this.run(run), this.store.started.get(run) ?? 0, this.unit); }
  #byElement(element) { return [...this.cards.values()].find((card) => card.element === element); }

  // The part that the page's address shows.
  #linked() {
    const ends = this.toolbar.range;
    if (!ends) return null;
    this.toolbar.zoomed(true);
    return { mode: this.settings.mode, ends };
  }

  // The page wants other figures than before: it has changed the address in data-charts.
  renew() {
    this.urls.figures = this.root.dataset.charts;
    this.refresh().catch((error) => window.kd.toast(error.message, { kind: "bad" }));
  }

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
    const known = new Set(charts.map((spec) => spec.key));
    for (const [key, card] of this.cards) if (!known.has(key)) this.#remove(key, card);
    const before = this.cards;
    this.cards = new Map(charts.map((spec) => [spec.key, before.get(spec.key) ?? new Card(this, spec)]));
    if (!this.grid.dataset.ready) this.grid.replaceChildren();
    this.grid.dataset.ready = "yes";
    this.arrangement.place([...this.cards.values()]);
    for (const spec of charts) if (before.has(spec.key)) this.cards.get(spec.key).update(spec); else this.#watch(this.cards.get(spec.key));
  }

  #watch(card) {
    this.watcher.observe(card.element);
    this.sizes.observe(card.body);
    if (card.curves) this.cursor.watch(card);
  }

  #remove(key, card) {
    this.watcher.unobserve(card.element);
    this.sizes.unobserve(card.body);
    this.cursor.forget(card);
    card.element.remove();
    this.cards.delete(key);
  }

  #fail(error) {
    const words = Object.assign(document.createElement("p"), { className: "message bad", textContent: error.message });
    this.grid.replaceChildren(words);
  }

  redraw() { for (const card of this.cards.values()) card.redraw(); }

  // All charts of a page show time in the same unit; the longest run says which.
  measure() {
    const unit = timeUnit(this.store.longest);
    if (unit.name === this.unit.name) return;
    this.unit = unit;
    for (const card of this.cards.values()) if (card.mode === "time" && card.drawn) card.redraw();
  }

  find(text) { this.arrangement.find(text); }

  // Where several runs are compared the page's list of runs is the legend: its buttons with data-run-eye.
  #eyes() {
    for (const eye of document.querySelectorAll("[data-run-eye]")) eye.setAttribute("aria-pressed", String(!this.off.has(Number(eye.dataset.runEye))));
  }

  #looked(event) {
    const eye = event.target.closest?.("[data-run-eye]");
    if (!eye) return;
    const run = Number(eye.dataset.runEye);
    if (!this.off.delete(run)) this.off.add(run);
    this.#eyes();
    this.redraw();
  }

  isHidden(meta, card) {
    if (this.several) return this.off.has(meta.run);
    const trace = card.figure.data.find((one) => one.meta === meta);
    return card.hidden.has(trace.name);
  }

  // Live points
  frame(run, frame) {
    if (frame.phase !== undefined) this.#phase(run, frame.phase);
    if (!frame.points) return;
    const grown = this.store.append(run, frame.points);
    this.#unknown(run, Object.keys(frame.points));
    const touched = [...this.cards.values()].filter((card) => card.grow(run, frame.points, grown));
    if (touched.length) this.#soon();
  }

  // Where one stage gives way to the next the server knows the step: the figures bring the mark.
  #phase(run, phase) {
    const before = this.phases.get(run);
    this.phases.set(run, phase);
    if (before !== undefined && before !== phase) this.#again(SETTLE);
  }

  // Not before the drawings under way are done, and a while for the reader.
  #soon() {
    this.more = true;
    if (this.timer) return;
    this.timer = setTimeout(() => this.#round(), Math.max(0, (this.next ?? 0) - performance.now()));
  }

  async #round() {
    const begin = performance.now();
    this.more = false;
    this.measure();
    await Promise.all([...this.cards.values()].filter((card) => card.curves).map((card) => card.flush()));
    const now = performance.now();
    this.next = Math.max(begin + DRAW_EVERY, now + (now - begin) / 4);
    this.timer = null;
    if (this.more) this.#soon();
  }

  // A series that no figure had: the figures are asked for again, with its name.
  #unknown(run, names) {
    const known = new Set([...this.cards.values()].flatMap((card) => card.keys));
    const fresh = names.map((name) => keyOf(run, name)).filter((key) => !known.has(key) && !this.seen.has(key));
    if (!fresh.length) return;
    fresh.forEach((key) => this.seen.add(key));
    this.#again(150);
  }

  #again(wait) {
    clearTimeout(this.asking);
    this.asking = setTimeout(async () => { try { this.#show(await this.#figures()); } catch { /* the next refresh brings them */ } }, wait);
  }

  // Zoom, in all charts of the page at once. `range`: { mode, ends, walls }, or null for everything.
  zoom(range) {
    clearTimeout(this.zooming);
    if (!range) this.resets += 1;
    this.range = range;
    this.toolbar.zoomed(range !== null);
    this.toolbar.save();
    this.zooming = setTimeout(() => { for (const card of this.cards.values()) if (card.curves) card.redraw(); }, range ? 200 : 0);
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
