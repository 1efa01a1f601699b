// What every page can do: theme, keyboard, menus, dialogs, toasts, confirmation, copying, CSRF for htmx.
// Everything hangs on data-* attributes and one listener each on the document, so parts that htmx brings later work.
// Page modules use window.kd: { toast, confirm, csrf, icon, color, fetchJSON }.

const root = document.documentElement;
const $ = (selector, from = document) => from.querySelector(selector);
// The words this file says itself, translated by the page.
const word = (key) => $("#toasts").dataset[`word${key}`];
const csrf = () => $('meta[name="csrf-token"]')?.content ?? "";

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${root.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

// A design token as the browser resolved it, for charts: kd.color("series-3").
const color = (token) => getComputedStyle(root).getPropertyValue(`--${token}`).trim();

async function fetchJSON(url, { method = "GET", body } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrf();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(url, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const data = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Error(data?.detail ?? data?.message ?? `${response.status} ${response.statusText}`);
  return data;
}

// Toasts

const SIGN = { ok: "check", warn: "warning", bad: "warning", info: "info" };

function button(className, label, ...children) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = className;
  if (label) element.setAttribute("aria-label", label);
  element.append(...children);
  return element;
}

// action: { label, url } sends a POST (undo), { label, run } calls a function.
function toast(text, { kind = "info", action, seconds } = {}) {
  // A page that asks every few seconds would pile up the same refusal.
  for (const shown of document.querySelectorAll("#toasts > .toast.bad")) if (shown.querySelector("p").textContent === text) return shown;
  const box = document.createElement("div");
  box.className = `toast ${kind}`;
  const line = document.createElement("p");
  line.textContent = text;
  box.append(icon(SIGN[kind] ?? "info"), line);
  if (action) {
    const act = button("btn small", "", action.label);
    act.addEventListener("click", async () => {
      box.remove();
      try {
        if (action.run) await action.run();
        else { await fetchJSON(action.url, { method: "POST" }); location.reload(); }
      } catch (error) { toast(error.message, { kind: "bad" }); }
    });
    box.append(act);
  }
  const dismiss = button("btn quiet small icon-only", word("Dismiss"), icon("close"));
  dismiss.dataset.dismiss = "";
  box.append(dismiss);
  $("#toasts").append(box);
  expire(box, seconds);
  return box;
}

// Bad news stays until dismissed; the clock stops while the pointer or the focus is on a toast.
function expire(box, seconds) {
  if (box.classList.contains("bad") && !seconds) return;
  let left = (seconds ?? (box.querySelector(".btn:not(.quiet)") ? 10 : 6)) * 4;
  const clock = setInterval(() => {
    if (document.hidden || box.matches(":hover, :focus-within")) return;
    if (--left <= 0 || !box.isConnected) { clearInterval(clock); box.remove(); }
  }, 250);
}

// Confirmation: data-confirm="text" [data-confirm-name="must be typed"] [data-confirm-yes="button text"]

function confirmDialog(text, { name = "", yes = "" } = {}) {
  const dialog = $("#confirm");
  const accept = $("[data-confirm-yes]", dialog);
  const input = $("#confirm-name");
  accept.dataset.usual ??= accept.textContent;
  $("[data-confirm-text]", dialog).textContent = text;
  $("[data-confirm-expected]", dialog).textContent = name;
  $("[data-confirm-field]", dialog).hidden = !name;
  accept.textContent = yes || accept.dataset.usual;
  input.value = "";
  accept.disabled = Boolean(name);
  input.oninput = () => { accept.disabled = input.value !== name; };
  // Enter answers "no" as long as the name is not typed out: the first submit button of the form is Cancel.
  input.onkeydown = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!accept.disabled) accept.click();
  };
  dialog.returnValue = "no";
  dialog.showModal();
  if (name) input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const question = (element) => [element.dataset.confirm, { name: element.dataset.confirmName, yes: element.dataset.confirmYes }];

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const asker = event.submitter?.dataset.confirm ? event.submitter : form;
  if (!asker.dataset.confirm || isHtmx(form) || isHtmx(asker)) return;
  if (asker.dataset.confirmed) { delete asker.dataset.confirmed; return; }
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!(await confirmDialog(...question(asker)))) return;
  asker.dataset.confirmed = "yes";
  form.requestSubmit(event.submitter);
}, true);

const isHtmx = (element) => ["get", "post", "put", "patch", "delete"].some((verb) => element.hasAttribute(`hx-${verb}`));

document.addEventListener("htmx:confirm", async (event) => {
  const element = event.detail.elt;
  if (!element.dataset?.confirm) return;
  event.preventDefault();
  if (await confirmDialog(...question(element))) event.detail.issueRequest(true);
});

// htmx: the CSRF token on every request; errors become toasts; the server can send HX-Trigger: {"kd:toast": {...}}.

document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-CSRFToken"] = csrf(); });
document.addEventListener("htmx:responseError", (event) => {
  const { status, responseText } = event.detail.xhr;
  const plain = event.detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/plain");
  toast(status === 403 ? word("Forbidden") : status === 503 && plain ? responseText : `${word("Refused")} (${status})`, { kind: "bad" });
});
document.addEventListener("htmx:sendError", () => toast(word("Offline"), { kind: "bad" }));
document.addEventListener("kd:toast", (event) => toast(event.detail.text, event.detail));

// Clicks: data-open="dialog-id", data-close, data-dismiss, data-copy="text" or data-copy-from="selector", theme.

document.addEventListener("click", async (event) => {
  const on = (selector) => event.target.closest?.(selector);
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target) || on("a.menu-item, button.menu-item")) menu.open = false;
  }
  const opener = on("[data-open]");
  if (opener) document.getElementById(opener.dataset.open)?.showModal();
  if (on("[data-close]") || event.target.matches?.("dialog[open]:not(#confirm)")) event.target.closest("dialog").close();
  on("[data-dismiss]")?.closest(".toast, .message")?.remove();
  const theme = on("[data-theme-set]");
  if (theme) { window.kdTheme(theme.dataset.themeSet); showTheme(); }
  const copier = on("[data-copy], [data-copy-from]");
  if (copier) copy(copier.dataset.copy ?? $(copier.dataset.copyFrom)?.textContent ?? "");
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast(word("Copied"), { kind: "ok", seconds: 2 });
  } catch { toast(word("Uncopied"), { kind: "warn" }); }
}

function showTheme() {
  for (const choice of document.querySelectorAll("[data-theme-set]")) {
    choice.setAttribute("aria-pressed", String(choice.dataset.themeSet === root.dataset.themeChoice));
  }
}

// Keyboard. Never while typing, never with Ctrl, Alt or Meta, never under an open dialog.

const typing = (element) => Boolean(element?.closest?.("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable=true]"));
let prefix = "";
let prefixTimer = 0;

function leave() {
  const menu = $("details.menu[open]");
  if (menu) { menu.open = false; $("summary", menu).focus(); return; }
  if (typing(document.activeElement)) document.activeElement.blur();
}

// The entries of the navigation carry their keys ("g r"); a page adds its own with data-keys on a link or button.
function follow(keys) {
  const target = [...document.querySelectorAll("[data-keys]")].find((element) => element.dataset.keys === keys);
  target?.click();
  return Boolean(target);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  if ($("dialog[open]")) return;
  if (event.key === "Escape") { leave(); return; }
  if (typing(event.target)) return;
  if (moveInMenu(event)) return;
  clearTimeout(prefixTimer);
  const keys = prefix ? `${prefix} ${event.key}` : event.key;
  prefix = "";
  if (keys === "g") { prefix = "g"; prefixTimer = setTimeout(() => { prefix = ""; }, 1200); return; }
  if (keys === "?") { $("#help")?.showModal(); event.preventDefault(); return; }
  if (keys === "/") {
    const field = $("[data-search]") ?? $("main input[type=search]");
    if (field) { field.focus(); field.select?.(); event.preventDefault(); }
    return;
  }
  if (follow(keys)) event.preventDefault();
});

function moveInMenu(event) {
  const menu = event.target.closest?.("details.menu");
  if (!menu?.open || !["ArrowDown", "ArrowUp"].includes(event.key)) return false;
  const items = [...menu.querySelectorAll(".menu-item")];
  const at = items.indexOf(document.activeElement);
  const next = event.key === "ArrowDown" ? at + 1 : at < 0 ? items.length - 1 : at - 1;
  items[(next + items.length) % items.length]?.focus();
  event.preventDefault();
  return true;
}

// Times such as "3 min ago" grow old together with the page.

function refreshTimes() {
  if (document.hidden) return;
  const format = new Intl.RelativeTimeFormat(root.lang || "en", { numeric: "auto", style: "short" });
  for (const element of document.querySelectorAll("time[datetime][title]")) {
    const seconds = (Date.parse(element.dateTime) - Date.now()) / 1000;
    const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60]].find(([, s]) => Math.abs(seconds) >= s * 0.98) ?? [];
    if (unit && Math.abs(seconds) < 30 * 86400) element.textContent = format.format(Math.round(seconds / size), unit).replace(". ", " ");
  }
}

window.kd = { toast, confirm: confirmDialog, csrf, icon, color, fetchJSON };
showTheme();
document.addEventListener("kd:theme", showTheme);
for (const box of document.querySelectorAll("#toasts > .toast")) expire(box);
setInterval(refreshTimes, 60_000);
