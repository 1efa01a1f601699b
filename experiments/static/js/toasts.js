// Toasts: what just happened, and taking it back. The server sends HX-Trigger: {"kd:toast": {text, kind, action}}.
import { $, fetchJSON, icon, make } from "./parts.js";

const SIGN = { ok: "check", warn: "warning", bad: "warning", info: "info" };

// action: { label } with { run }, a function; { url, values }, a form that htmx posts (the answer is a toast and what it
// renews); or { url } alone, a POST after which the page is loaded anew.
export function toast(text, { kind = "info", action, seconds } = {}) {
  // A page that asks every few seconds would pile up the same refusal.
  for (const shown of document.querySelectorAll("#toasts > .toast.bad")) if (shown.querySelector("p").textContent === text) return shown;
  const box = make("div", `toast ${kind}`, icon(SIGN[kind] ?? "info"));
  const line = make("p");
  line.textContent = text;
  box.append(line);
  if (action) {
    const act = make("button", "btn small", action.label);
    act.addEventListener("click", () => {
      box.remove();
      perform(action).catch((error) => toast(error.message, { kind: "bad" }));
    });
    box.append(act);
  }
  const dismiss = make("button", "btn quiet small icon-only", icon("close"));
  dismiss.setAttribute("aria-label", gettext("Dismiss"));
  dismiss.dataset.dismiss = "";
  box.append(dismiss);
  $("#toasts").append(box);
  expire(box, seconds);
  return box;
}

async function perform({ run, url, values }) {
  if (run) await run();
  else if (values) await window.htmx.ajax("POST", url, { values, swap: "none" });
  else {
    await fetchJSON(url, { method: "POST" });
    location.reload();
  }
}

// Bad news stays until dismissed; the clock stops while the pointer or the focus is on a toast.
export function expire(box, seconds) {
  if (box.classList.contains("bad") && !seconds) return;
  let left = (seconds ?? (box.querySelector(".btn:not(.quiet)") ? 10 : 6)) * 4;
  const clock = setInterval(() => {
    if (document.hidden || box.matches(":hover, :focus-within")) return;
    if (--left <= 0 || !box.isConnected) { clearInterval(clock); box.remove(); }
  }, 250);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast(gettext("Copied"), { kind: "ok", seconds: 2 });
  } catch { toast(gettext("The browser did not allow copying."), { kind: "warn" }); }
}

document.addEventListener("htmx:responseError", (event) => {
  const { status, responseText } = event.detail.xhr;
  const plain = event.detail.xhr.getResponseHeader("Content-Type")?.startsWith("text/plain");
  const refused = `${gettext("The server could not do this. Nothing was changed.")} (${status})`;
  toast(status === 403 ? gettext("You may not do this.") : status === 503 && plain ? responseText : refused, { kind: "bad" });
});
document.addEventListener("htmx:sendError", () => toast(gettext("No connection to the server. Nothing was changed."), { kind: "bad" }));
document.addEventListener("kd:toast", (event) => toast(event.detail.text, event.detail));
for (const box of document.querySelectorAll("#toasts > .toast")) expire(box);
