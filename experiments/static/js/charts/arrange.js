// Where the charts of a page stand: in sections, the pinned ones first, in the reader's own order, and which of
// them a search leaves. Remembered in this browser for each kind of page.

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

const PINNED = "*"; // no prefix of a series

export class Arrangement {
  constructor(board) {
    this.board = board;
    this.grid = board.grid;
    this.kind = board.root.dataset.kind; // none: a plain grid, as of one picture
    this.key = `kd-charts-${this.kind}`;
    this.sections = new Map();
    this.words = [];
    this.state = { pinned: [], order: {}, closed: [] };
    try { Object.assign(this.state, JSON.parse(localStorage.getItem(this.key))); } catch { /* nothing is kept here */ }
  }

  pinned(card) { return this.state.pinned.includes(card.spec.key); }

  // Puts every card at its place; those that stand right are not touched.
  place(cards) {
    if (!this.kind) { put(this.grid, cards.map((card) => card.element)); return; }
    const groups = this.#groups(cards);
    for (const [name, group] of groups) put(this.#section(name).grid, group.map((card) => card.element));
    for (const [name, section] of this.sections) if (!groups.has(name)) { section.element.remove(); this.sections.delete(name); }
    put(this.grid, [...groups.keys()].map((name) => this.sections.get(name).element));
    this.filter(cards);
  }

  #groups(cards) {
    const groups = new Map(cards.some((card) => this.pinned(card)) ? [[PINNED, []]] : []);
    for (const card of cards) {
      const name = this.pinned(card) ? PINNED : card.spec.section;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(card);
    }
    for (const [name, group] of groups) {
      const order = name === PINNED ? this.state.pinned : this.state.order[name] ?? [];
      const rank = (card) => (order.includes(card.spec.key) ? order.indexOf(card.spec.key) : order.length);
      group.sort((a, b) => rank(a) - rank(b));
    }
    return groups;
  }

  #section(name) {
    let found = this.sections.get(name);
    if (found) return found;
    const count = make("span", "chart-count num");
    const title = make("h2", "chart-section-title", name === PINNED ? gettext("Pinned") : name);
    const grid = make("div", "chart-grid");
    const summary = make("summary", "", window.kd.icon("right"), title, count);
    const element = make("details", "chart-section", summary, grid);
    element.open = !this.state.closed.includes(name);
    summary.addEventListener("click", () => this.#toggled(name, !element.open));
    found = { element, grid, count };
    this.sections.set(name, found);
    return found;
  }

  #toggled(name, open) {
    if (this.words.length) return; // a search opens what it finds
    this.state.closed = this.state.closed.filter((one) => one !== name);
    if (!open) this.state.closed.push(name);
    this.#keep();
  }

  #keep() { try { localStorage.setItem(this.key, JSON.stringify(this.state)); } catch { /* not kept */ } }

  pin(card) {
    const { key } = card.spec;
    if (this.pinned(card)) this.state.pinned = this.state.pinned.filter((one) => one !== key);
    else this.state.pinned.push(key);
    this.#changed(card);
  }

  // One place earlier (-1) or later (1) among those that are shown.
  move(card, by) {
    const group = this.#group(card).filter((one) => !one.element.hidden);
    const other = group[group.indexOf(card) + by];
    if (other) this.drop(card, other, by > 0);
  }

  #group(card) {
    const name = this.#name(card);
    return this.#groups([...this.board.cards.values()]).get(name);
  }

  #name(card) { return this.pinned(card) ? PINNED : card.spec.section; }

  // Before another card of its section, or after it.
  drop(card, other, after) {
    if (card === other || this.#name(card) !== this.#name(other)) return;
    const keys = this.#group(card).map((one) => one.spec.key).filter((key) => key !== card.spec.key);
    keys.splice(keys.indexOf(other.spec.key) + (after ? 1 : 0), 0, card.spec.key);
    if (this.#name(card) === PINNED) this.state.pinned = [...keys, ...this.state.pinned.filter((key) => !keys.includes(key))];
    else this.state.order[card.spec.section] = keys;
    this.#changed(card);
  }

  #changed(card) {
    const focus = document.activeElement;
    this.#keep();
    this.place([...this.board.cards.values()]);
    if (card.element.contains(focus)) focus.focus(); // moving an element takes the focus from it
    const group = this.#group(card);
    const place = { title: card.spec.title, place: group.indexOf(card) + 1, count: group.length };
    this.board.toolbar.say(interpolate(gettext("%(title)s is now chart %(place)s of %(count)s in its section."), place, true));
  }

  // Search, over titles and names of series
  find(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.filter([...this.board.cards.values()]);
  }

  filter(cards) {
    let shown = 0;
    for (const card of cards) {
      card.element.hidden = !this.words.every((word) => card.text.includes(word));
      shown += card.element.hidden ? 0 : 1;
    }
    for (const [name, { element, grid, count }] of this.sections) {
      const left = [...grid.children].filter((child) => !child.hidden).length;
      count.textContent = String(left);
      element.hidden = !left;
      element.open = this.words.length ? true : !this.state.closed.includes(name);
    }
    this.#nothing(cards.length > 0 && !shown);
    if (this.words.length) this.board.toolbar.say(interpolate(ngettext("%(count)s chart", "%(count)s charts", shown), { count: shown }, true));
  }

  #nothing(yes) {
    this.grid.querySelector(".chart-none")?.remove();
    if (yes) this.grid.append(make("p", "chart-none faint", gettext("No chart has these words in its title or its series.")));
  }
}

function put(parent, elements) {
  elements.forEach((element, i) => { if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null); });
}
