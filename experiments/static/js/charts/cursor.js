// One cursor for all charts of a page: the pointer over a chart, a finger, or the arrow keys where a chart has the
// focus. Every chart on the screen shows the place and its values there.
import { nearest, toShared } from "./axis.js";
import { Reading } from "./reading.js";

const JUMP = 10; // points that an arrow key with Shift moves

export class Cursor {
  constructor(board) {
    this.board = board;
    this.at = null; // { mode, x in shared units, wall }
    this.readings = new Map(); // card → Reading
  }

  watch(card) {
    const { body, plot } = card;
    body.addEventListener("pointermove", (event) => this.#pointed(card, event));
    body.addEventListener("pointerdown", (event) => this.#pointed(card, event));
    body.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") this.clear(); });
    plot.addEventListener("keydown", (event) => this.#pressed(card, event));
    plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) this.#step(card, 0); });
    plot.addEventListener("blur", () => this.clear());
    this.readings.set(card, new Reading(card));
  }

  forget(card) { this.readings.delete(card); }

  clear() { this.at = null; this.#show(); }

  // After a drawing: the values may be others.
  refresh(card) { if (this.at) this.readings.get(card)?.show(this.at); }

  #pointed(card, event) {
    const axis = card.plot._fullLayout?.xaxis;
    const main = axis && card.main();
    if (!main) return;
    const pixel = event.clientX - card.plot.getBoundingClientRect().left - axis._offset;
    if (pixel < 0 || pixel > axis._length) { this.clear(); return; }
    this.#place(card, nearest(main.x, axis.p2c(pixel)), main);
  }

  #place(card, i, main) {
    const wall = main.points.w[i];
    this.at = { mode: card.mode, x: toShared(card.mode, main.x[i], this.board.unit), wall, from: card };
    this.#show();
  }

  #pressed(card, event) {
    const ways = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape" && this.at) { this.clear(); event.stopPropagation(); return; }
    if (!(event.key in ways) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.#step(card, ways[event.key] * (event.shiftKey ? JUMP : 1));
  }

  #step(card, by) {
    const main = card.main();
    if (!main) return;
    const [low, high] = visiblePart(card, main.x);
    const now = this.at ? nearest(main.x, this.where(card)) : high;
    this.#place(card, Math.max(low, Math.min(high, now + by)), main);
  }

  // The cursor's place along the axis of another chart, which may show time where this one shows steps.
  where(card) {
    const { mode, x, wall } = this.at;
    return card.placeOf(mode, x, wall);
  }

  #show() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      for (const [card, reading] of this.readings) if (card.visible || !this.at) reading.show(this.at);
    });
  }
}

function visiblePart(card, xs) {
  const axis = card.plot._fullLayout.xaxis;
  const [from, to] = [axis.p2c(0), axis.p2c(axis._length)];
  const low = xs.findIndex((x) => x >= from);
  const high = xs.findLastIndex((x) => x <= to);
  return low < 0 || high < low ? [0, xs.length - 1] : [low, high];
}
