// What every page can do. Everything hangs on data-* attributes and one listener each on the document, so parts that
// htmx brings later work. Page modules use window.kd: { toast, confirm, csrf, icon, color, fetchJSON }.
import { confirmDialog } from "./confirm.js";
import { showHelp, showSwitch, switchKeys } from "./keys.js";
import { openPalette } from "./palette.js";
import { $, color, csrf, fetchJSON, icon, root } from "./parts.js";
import { copy, toast } from "./toasts.js";

document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-CSRFToken"] = csrf(); });

// Clicks: data-open="dialog-id", data-close, data-dismiss, data-copy="text" or data-copy-from="selector", theme.

const open = (id) => (OPENING[id] ?? ((dialog) => dialog?.showModal()))(document.getElementById(id));
const OPENING = { help: showHelp, palette: openPalette };

document.addEventListener("click", (event) => {
  const on = (selector) => event.target.closest?.(selector);
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target) || on("a.menu-item, button.menu-item")) menu.open = false;
  }
  const opener = on("[data-open]");
  if (opener) open(opener.dataset.open);
  if (on("[data-close]") || event.target.matches?.("dialog[open]:not(#confirm)")) event.target.closest("dialog").close();
  on("[data-dismiss]")?.closest(".toast, .message")?.remove();
  if (on("[data-keys-switch]")) toast(switchKeys() ? gettext("Shortcuts of one key are on.") : gettext("Shortcuts of one key are off."));
  const theme = on("[data-theme-set]");
  if (theme) { window.kdTheme(theme.dataset.themeSet); showTheme(); }
  const copier = on("[data-copy], [data-copy-from]");
  if (copier) copy(copier.dataset.copy ?? $(copier.dataset.copyFrom)?.textContent ?? "");
});

function showTheme() {
  for (const choice of document.querySelectorAll("[data-theme-set]")) {
    choice.setAttribute("aria-pressed", String(choice.dataset.themeSet === root.dataset.themeChoice));
  }
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
showSwitch();
document.addEventListener("kd:theme", showTheme);
setInterval(refreshTimes, 60_000);
