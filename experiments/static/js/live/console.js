// The console of a run: data-console="<address of its lines>" data-run="<id>" data-last="<number of the last line>".
// Lines are numbered: what comes twice is dropped and a hole is fetched. Only the newest lines stay in the page.

const MOST = 2000;
const EDGE = 24; // px from the end that still count as being there
const consoles = new WeakMap();

class Console {
  constructor(list) {
    this.list = list;
    this.last = Number(list.dataset.last ?? -1);
    this.reading = null;
    list.scrollTop = list.scrollHeight;
    this.fill();
  }

  // Reads what the database has beyond the last line.
  fill() {
    this.reading ??= (async () => {
      try {
        let more = true;
        while (more) {
          const answer = await window.kd.fetchJSON(`${this.list.dataset.console}?after=${this.last}`);
          this.add(answer.lines);
          more = answer.more;
        }
      } catch { /* the next frame asks again */ } finally {
        this.reading = null;
        this.list.removeAttribute("aria-busy");
      }
    })();
    return this.reading;
  }

  async take(lines) {
    if (this.reading) await this.reading;
    if (lines[0].n > this.last + 1) await this.fill();
    this.add(lines);
  }

  add(lines) {
    const pinned = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < EDGE;
    const fresh = lines.filter((line) => line.n > this.last);
    if (!fresh.length) return;
    this.last = fresh[fresh.length - 1].n;
    this.list.querySelector(".log-empty")?.remove();
    this.list.append(...fresh.slice(-MOST).map(row));
    while (this.list.children.length > MOST) this.list.firstElementChild.remove();
    if (pinned) this.list.scrollTop = this.list.scrollHeight;
  }
}

function row({ wall, level, text }) {
  const when = new Date(wall * 1000);
  const time = Object.assign(document.createElement("time"), { className: "num", dateTime: when.toISOString(), textContent: when.toLocaleTimeString("en-GB") });
  const words = Object.assign(document.createElement("span"), { textContent: text });
  const line = Object.assign(document.createElement("div"), { className: "log-line" });
  line.dataset.level = level;
  line.append(time, words);
  return line;
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
