// The points a page knows, by run and series. Steps rise: what comes again at a known step is dropped, so frames
// may overlap with what was fetched. Frames that arrive before a series was fetched wait until it is.
import { noteOdd } from "./odd.js";

const MOST = 4000; // points a curve may grow to in the page before it is thinned
const THINNED = 2000;
const WAITING = 150; // frames kept for a series that was not fetched: half a minute, longer than the server's delay

export const keyOf = (run, name) => `${run}:${name}`;

// Pixels a curve is asked for: of fifty in one chart each gets what the chart is wide.
const widthFor = (curves) => Math.max(250, Math.min(1000, Math.round(20000 / curves)));

export class Store {
  constructor(url) {
    this.url = url;
    this.series = new Map(); // key → { s, v, w, odd, summed, loaded, waiting, version }; `summed`: points that are a summary
    this.started = new Map(); // run → Unix time of its first point
    this.longest = 0; // seconds from the begin of a run to its last point
  }

  get(key) {
    let found = this.series.get(key);
    if (!found) this.series.set(key, (found = { s: [], v: [], w: [], odd: [], summed: 0, loaded: false, waiting: [], version: 0 }));
    return found;
  }

  // From now on everything is fetched again; what is drawn stays until then.
  expire() {
    for (const one of this.series.values()) { one.loaded = false; one.waiting = []; }
  }

  async load(keys) {
    const missing = keys.filter((key) => !this.get(key).loaded);
    if (!missing.length) return;
    const answer = await this.fetch(missing, {});
    for (const key of missing) {
      const one = this.get(key);
      const points = answer.get(key) ?? { s: [], v: [], w: [] };
      Object.assign(one, { odd: [], summed: 0 }, points, { loaded: true, version: one.version + 1 });
      const waiting = one.waiting;
      one.waiting = [];
      for (const late of waiting) this.#append(key, late);
      this.#times(key, one.w);
    }
  }

  // The points of a window, at the resolution of the screen: a copy beside what is kept.
  window(keys, first, last, width) {
    return this.fetch(keys, { first: Math.max(0, Math.floor(first)), last: Math.max(0, Math.ceil(last)), width });
  }

  async fetch(keys, query) {
    const pairs = keys.map((key) => [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)]);
    const unique = (place) => [...new Set(pairs.map((pair) => pair[place]))].join(",");
    const url = `${this.url}?${new URLSearchParams({ runs: unique(0), name: unique(1), width: widthFor(keys.length), ...query })}`;
    const { runs } = await window.kd.fetchJSON(url);
    const found = new Map();
    for (const [run, { series }] of Object.entries(runs)) {
      for (const [name, points] of Object.entries(series)) found.set(keyOf(run, name), { ...points, summed: points.exact ? 0 : points.s.length });
    }
    return found;
  }

  // A live frame: gives the keys that grew.
  append(run, points) {
    const grown = [];
    for (const [name, block] of Object.entries(points)) {
      const key = keyOf(run, name);
      const one = this.get(key);
      if (!one.loaded) {
        one.waiting.push(block);
        if (one.waiting.length > WAITING) one.waiting.shift();
        continue;
      }
      if (this.#append(key, block)) grown.push(key);
      this.#times(key, one.w);
    }
    return grown;
  }

  #append(key, block) {
    const one = this.get(key);
    const grew = extend(one, block);
    if (one.s.length > MOST) thin(one);
    return grew;
  }

  #times(key, walls) {
    if (!walls.length) return;
    const run = Number(key.slice(0, key.indexOf(":")));
    const began = Math.min(walls[0], this.started.get(run) ?? Infinity);
    this.started.set(run, began);
    this.longest = Math.max(this.longest, walls[walls.length - 1] - began);
  }
}

// Adds the points beyond the last known step (and up to `until`).
export function extend(one, block, until = Infinity) {
  let last = one.s.length ? one.s[one.s.length - 1] : -1;
  const before = one.s.length;
  noteOdd(one, block.o?.filter(([step]) => step <= until), last);
  for (let i = 0; i < block.s.length; i += 1) {
    if (block.s[i] <= last || block.s[i] > until) continue;
    last = block.s[i];
    one.s.push(last); one.v.push(block.v[i]); one.w.push(block.w[i]);
  }
  return one.s.length > before;
}

// Keeps the lowest and the highest of each bucket, as the server does: a spike stays.
function thin(one) {
  const size = Math.ceil((2 * one.s.length) / THINNED);
  const kept = { s: [], v: [], w: [] };
  for (let begin = 0; begin < one.s.length; begin += size) {
    const end = Math.min(begin + size, one.s.length);
    let low = begin, high = begin;
    for (let i = begin; i < end; i += 1) {
      if (one.v[i] === null) continue;
      if (one.v[low] === null || one.v[i] < one.v[low]) low = i;
      if (one.v[high] === null || one.v[i] > one.v[high]) high = i;
    }
    for (const i of new Set([Math.min(low, high), Math.max(low, high), ...(end === one.s.length ? [end - 1] : [])])) {
      kept.s.push(one.s[i]); kept.v.push(one.v[i]); kept.w.push(one.w[i]);
    }
  }
  Object.assign(one, kept, { summed: kept.s.length });
  one.version += 1;
}
