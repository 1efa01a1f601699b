// Who draws next: a few drawings a frame, so that a page of many charts answers the hand between them.

const A_FRAME = 16; // ms of drawing after which the next one waits for the next frame

export class Turns {
  constructor() { this.waiting = []; this.asked = false; }

  // Gives what `work` gives, once it was its turn.
  take(work) {
    return new Promise((resolve, reject) => { this.waiting.push({ work, resolve, reject }); this.#ask(); });
  }

  #ask() {
    if (this.asked || !this.waiting.length) return;
    this.asked = true;
    requestAnimationFrame(() => {
      const begin = performance.now();
      do this.#run(this.waiting.shift()); while (this.waiting.length && performance.now() - begin < A_FRAME);
      this.asked = false;
      this.#ask();
    });
  }

  #run({ work, resolve, reject }) {
    try { resolve(work()); } catch (error) { reject(error); }
  }
}
