// The query line: a combobox whose list says what may come next. Arrow keys move, Enter or Tab takes, Escape closes.
// The table follows when the line rests in a state that means something.

const line = document.getElementById("q");
const list = document.getElementById("q-options");
const form = document.getElementById("filter");
const OPEN_END = /[:=<>,(\-]$/;
let options = [];
let span = [0, 0];
let active = -1;
let asked = 0;
let pause = 0;
let rest = 0;

function close() {
  list.hidden = true;
  active = -1;
  line.setAttribute("aria-expanded", "false");
  line.removeAttribute("aria-activedescendant");
}

function draw() {
  list.replaceChildren(...options.map((option, n) => {
    const item = document.createElement("li");
    item.id = `q-option-${n}`;
    item.setAttribute("role", "option");
    item.dataset.n = n;
    const note = Object.assign(document.createElement("span"), { className: "note", textContent: option.note });
    item.append(Object.assign(document.createElement("b"), { textContent: option.label }), note);
    return item;
  }));
  list.hidden = options.length === 0;
  line.setAttribute("aria-expanded", String(!list.hidden));
  mark(-1);
}

function mark(n) {
  active = n;
  for (const item of list.children) item.setAttribute("aria-selected", String(Number(item.dataset.n) === n));
  const item = list.children[n];
  if (item) {
    line.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
  } else line.removeAttribute("aria-activedescendant");
}

async function ask() {
  const turn = ++asked;
  const query = new URLSearchParams({ q: line.value, at: line.selectionStart });
  try {
    const answer = await kd.fetchJSON(`${line.dataset.complete}?${query}`);
    if (turn !== asked || document.activeElement !== line) return; // a newer question is under way
    const written = line.value.slice(answer.start, answer.end);
    options = answer.options.filter((option) => option.insert !== written);
    span = [answer.start, answer.end];
    draw();
  } catch { close(); }
}

function take(n) {
  const [start, end] = span;
  const { insert } = options[n];
  const goesOn = OPEN_END.test(insert);
  const after = line.value.slice(end).replace(/^\s+/, "");
  const before = line.value.slice(0, start) + insert + (goesOn ? "" : " ");
  line.value = before + after;
  line.setSelectionRange(before.length, before.length);
  close();
  if (goesOn) ask();
  else filter();
}

function filter() {
  clearTimeout(rest);
  window.htmx.trigger(form, "kd:filter");
}

line.addEventListener("input", () => {
  clearTimeout(pause);
  clearTimeout(rest);
  pause = setTimeout(ask, 120);
  const quotes = line.value.split('"').length - 1;
  if (!OPEN_END.test(line.value) && quotes % 2 === 0) rest = setTimeout(filter, 600);
});
line.addEventListener("click", ask);
line.addEventListener("blur", () => { clearTimeout(pause); asked += 1; close(); });
form.addEventListener("submit", () => { clearTimeout(rest); close(); });

line.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  const { key } = event;
  if (list.hidden) {
    if (key === "ArrowDown") { ask(); event.preventDefault(); }
    return;
  }
  if (key === "ArrowDown") mark((active + 1) % options.length);
  else if (key === "ArrowUp") mark(active <= 0 ? options.length - 1 : active - 1);
  else if (key === "Escape") close();
  else if ((key === "Enter" || key === "Tab") && active >= 0) take(active);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

list.addEventListener("pointerdown", (event) => {
  const item = event.target.closest("li");
  event.preventDefault(); // the line keeps the focus
  if (item) take(Number(item.dataset.n));
});
