// Who draws next: one drawing a frame, so that a page of many charts answers the hand between two of them.

export class Turns {
  constructor() { this.waiting = []; this.asked = false; }

  take() {
    return new Promise((resolve) => { this.waiting.push(resolve); this.#ask(); });
  }

  #ask() {
    if (this.asked || !this.waiting.length) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.waiting.shift()();
      this.#ask();
    });
  }
}
