// What happens now: frames of the runs on a page, from one EventSource. Tells the rest of the page by events:
// kd:frame {run, frame} and kd:run-state {run, state} on document.body, kd:connection {state} on document.
import "./live/console.js";
import "./live/header.js";

export const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const AGAIN = [500, 1000, 2000, 4000, 8000, 15000]; // ms until the next attempt
const HIDDEN = 5000; // ms a tab stays connected when nobody sees it

export class Live {
  // `refresh` reads the page's data anew and gives its runs with their cursors; `receive(run, frame)` takes frames.
  constructor(url, refresh, receive) {
    Object.assign(this, { url, refresh, receive, failures: 0, states: new Map() });
    document.addEventListener("visibilitychange", () => this.#visibility());
    addEventListener("pagehide", () => this.#close());
    addEventListener("pageshow", (event) => { if (event.persisted) this.begin(); });
  }

  async begin() {
    this.#close();
    clearTimeout(this.timer);
    const attempt = (this.attempt = {});
    try {
      const runs = await this.refresh();
      if (attempt === this.attempt) this.#open(runs);
    } catch (error) {
      if (attempt === this.attempt) this.#later(error);
    }
  }

  #open(runs) {
    for (const run of runs) this.#state(run.id, run.state.status, false);
    const going = runs.filter((run) => !ENDED.has(run.state.status));
    if (!going.length) { this.#tell("ended"); return; }
    const query = new URLSearchParams({ runs: going.map((run) => run.id).join(","), after: going.map((run) => `${run.id}:${run.cursor}`).join(",") });
    const source = (this.source = new EventSource(`${this.url}?${query}`));
    source.addEventListener("open", () => this.#tell("live"));
    source.addEventListener("message", (event) => this.#message(event));
    source.addEventListener("reload", () => this.#later());
    source.addEventListener("error", () => {
      // Closed for good: the runs ended (204), or the server no longer lets us. The data say which.
      if (source.readyState === EventSource.CLOSED) this.#later();
      else this.#tell("reconnecting");
    });
  }

  #message(event) {
    const { run, frame } = JSON.parse(event.data);
    this.failures = 0;
    this.receive(run, frame);
    document.body.dispatchEvent(new CustomEvent("kd:frame", { detail: { run, frame }, bubbles: true }));
    if (frame.state) this.#state(run, frame.state, true);
  }

  // A new state may bring a new attempt that goes back some steps, or results: everything is read again.
  #state(run, state, announce) {
    const before = this.states.get(run);
    this.states.set(run, state);
    if (!announce || before === state) return;
    document.body.dispatchEvent(new CustomEvent("kd:run-state", { detail: { run, state }, bubbles: true }));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.begin(), 250);
  }

  #later(error) {
    this.#close();
    clearTimeout(this.timer);
    if (document.hidden) { this.asleep = true; return; }
    this.#tell("reconnecting");
    if (error && this.failures === AGAIN.length) window.kd?.toast(error.message, { kind: "warn" });
    this.timer = setTimeout(() => this.begin(), AGAIN[Math.min(this.failures, AGAIN.length - 1)]);
    this.failures += 1;
  }

  #visibility() {
    clearTimeout(this.sleep);
    if (document.hidden) this.sleep = setTimeout(() => { if (this.source) { this.asleep = true; this.#close(); } }, HIDDEN);
    else if (this.asleep) { this.asleep = false; this.begin(); }
  }

  #close() {
    this.source?.close();
    this.source = null;
    this.attempt = null;
  }

  #tell(state) {
    for (const element of document.querySelectorAll("[data-live-state]")) {
      element.dataset.liveState = state;
      element.textContent = element.dataset[state] ?? state;
    }
    document.dispatchEvent(new CustomEvent("kd:connection", { detail: { state } }));
  }
}
