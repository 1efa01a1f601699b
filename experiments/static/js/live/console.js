// The console of a run: data-console="<address of its lines>" data-run="<id>" data-last="<number of the last line>".
// Lines are numbered: what comes twice is dropped and a hole is fetched. What is sought is sought by the server, in
// all lines; of the lines that come meanwhile those that match are shown.

const MOST = 2000; // lines in the page while its end is looked at; who reads further up keeps what is there
const PAGE = 500;
const EDGE = 24; // px from the end that still count as being there
const PAUSE = 250; // ms after the last key before the server is asked
const END = 2 ** 31 - 1;
const RANK = { debug: 0, info: 0, warning: 1, error: 2 };
const consoles = new WeakMap();

class Console {
  constructor(list) {
    const card = list.closest("[data-console-card]");
    this.list = list;
    this.older = list.querySelector(".log-older");
    this.end = card.querySelector(".log-end");
    this.found = card.querySelector(".console-found");
    this.form = card.querySelector("form");
    this.last = Number(list.dataset.last);
    this.busy = Promise.resolve(); // one question after the other
    list.scrollTop = list.scrollHeight;
    list.addEventListener("scroll", () => this.#showEnd(), { passive: true });
    this.end.addEventListener("click", () => this.#toEnd());
    this.older.addEventListener("click", (event) => { event.preventDefault(); this.#read(() => this.#olderOnes()); });
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.seek(); });
    this.form.addEventListener("input", () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.seek(), PAUSE); });
    card.querySelector("[data-console-submit]").hidden = true; // it is sought while it is typed
    this.fill();
  }

  get sought() { return { q: this.form.elements.q.value, level: this.form.elements.level.value }; }
  get narrowed() { return Boolean(this.sought.q || this.sought.level); }
  get pinned() { return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < EDGE; }
  get rows() { return this.list.querySelectorAll(".log-line"); }

  // Reads what the database has beyond the last line.
  fill() {
    return this.#read(async () => {
      let more = true;
      while (more) {
        const answer = await this.#ask({ after: this.last });
        this.add(answer.lines);
        more = answer.more;
      }
    });
  }

  async take(lines) {
    await this.busy;
    if (lines[0].n > this.last + 1) await this.fill();
    this.add(lines);
  }

  add(lines) {
    const pinned = this.pinned;
    const fresh = lines.filter((line) => line.n > this.last);
    if (!fresh.length) return;
    this.last = fresh[fresh.length - 1].n;
    const shown = fresh.filter((line) => this.#matches(line));
    this.list.append(...this.#drawn(shown.slice(-MOST)));
    if (pinned) {
      for (const row of [...this.rows].slice(0, -MOST)) { row.remove(); this.older.hidden = false; }
      this.list.scrollTop = this.list.scrollHeight;
    }
    this.#tell();
  }

  // Other words or another level: the newest lines like that, whichever they are.
  seek() {
    return this.#read(async () => {
      const { lines, more } = await this.#ask({ before: END, limit: PAGE });
      this.#clear();
      this.list.append(...this.#drawn(lines));
      this.last = Math.max(this.last, lines.at(-1)?.n ?? -1);
      this.older.hidden = !more;
      this.#toEnd();
      this.#tell();
    });
  }

  async #olderOnes() {
    const first = this.rows[0];
    const { lines, more } = await this.#ask({ before: first?.dataset.n ?? END, limit: PAGE });
    const below = this.list.scrollHeight - this.list.scrollTop;
    this.older.after(...this.#drawn(lines));
    this.list.scrollTop = this.list.scrollHeight - below; // what was read stays where it was
    this.older.hidden = !more;
    if (!more) this.list.focus({ preventScroll: true });
    this.#tell();
  }

  #ask(query) { return window.kd.fetchJSON(`${this.list.dataset.console}?${new URLSearchParams({ ...query, ...this.sought })}`); }

  #read(work) {
    this.busy = this.busy.then(work).catch(() => { /* the next frame asks again */ }).then(() => this.list.removeAttribute("aria-busy"));
    return this.busy;
  }

  #matches({ level, text }) {
    const { q, level: wanted } = this.sought;
    return (!q || text.toLowerCase().includes(q.toLowerCase())) && (!wanted || (RANK[level] ?? 0) >= RANK[wanted]);
  }

  #drawn(lines) {
    if (lines.length) this.list.querySelector(".log-empty")?.remove();
    return lines.map((line) => row(line, this.sought.q));
  }

  #clear() {
    this.list.querySelector(".log-empty")?.remove();
    for (const row of this.rows) row.remove();
  }

  #tell() {
    const count = this.rows.length;
    this.found.hidden = !this.narrowed;
    const words = this.older.hidden
      ? ngettext("%(n)s line matches.", "%(n)s lines match.", count)
      : ngettext("The newest line that matches.", "The newest %(n)s lines that match.", count);
    this.found.textContent = this.narrowed ? interpolate(words, { n: count.toLocaleString("en") }, true) : "";
    this.#showEnd();
  }

  #toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
    this.#showEnd();
  }

  #showEnd() { this.end.hidden = this.pinned; }
}

function row({ n, wall, level, text }, sought) {
  const when = new Date(wall * 1000);
  const time = Object.assign(document.createElement("time"), { className: "num", dateTime: when.toISOString(), textContent: when.toLocaleTimeString("en-GB") });
  const words = document.createElement("span");
  words.append(...marked(text, sought));
  const line = Object.assign(document.createElement("div"), { className: "log-line" });
  Object.assign(line.dataset, { level, n });
  line.append(time, words);
  return line;
}

// The text in pieces, what is sought as <mark>.
function marked(text, sought) {
  if (!sought) return [text];
  const lower = text.toLowerCase(), wanted = sought.toLowerCase(), pieces = [];
  let from = 0;
  if (lower.length !== text.length) return [text]; // a letter that grows in lower case would shift what follows
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    pieces.push(text.slice(from, at), Object.assign(document.createElement("mark"), { textContent: text.slice(at, at + wanted.length) }));
    from = at + wanted.length;
  }
  return [...pieces, text.slice(from)];
}

function start() {
  for (const list of document.querySelectorAll("[data-console]")) if (!consoles.has(list)) consoles.set(list, new Console(list));
}

document.addEventListener("kd:frame", ({ detail: { run, frame } }) => {
  if (!frame.log?.length) return;
  for (const list of document.querySelectorAll(`[data-console][data-run="${run}"]`)) consoles.get(list)?.take(frame.log);
});
// After a reconnect the frames in between are gone: the numbers say what is missing.
document.addEventListener("kd:connection", ({ detail: { state } }) => {
  if (state === "reconnecting") return;
  for (const list of document.querySelectorAll("[data-console]")) consoles.get(list)?.fill();
});
document.addEventListener("htmx:load", start);
start();
