// What the modules of every page share.

export const root = document.documentElement;
export const $ = (selector, from = document) => from.querySelector(selector);
export const csrf = () => $('meta[name="csrf-token"]')?.content ?? "";

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `${root.dataset.icons}#${name}`);
  svg.append(use);
  return svg;
}

export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (tag === "button") element.type = "button";
  element.className = className;
  element.append(...children);
  return element;
}

// What a button or link does; of another element, what the one within it does.
export const press = (element) => (element.matches("a, button") ? element : $("a, button", element)).click();

// A design token as the browser resolved it, for charts: kd.color("series-3").
export const color = (token) => getComputedStyle(root).getPropertyValue(`--${token}`).trim();

export async function fetchJSON(url, { method = "GET", body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRFToken"] = csrf();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(url, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  const data = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Error(data?.detail ?? data?.message ?? `${response.status} ${response.statusText}`);
  return data;
}

// What the reader chose in this browser; private windows forget it.
export function remembered(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

export function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* the page works all the same */ }
}
