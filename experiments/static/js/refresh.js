// Parts of a page that renew themselves: data-refresh="seconds" sends them kd:refresh, which their hx-trigger
// waits for. A hidden tab asks for nothing, and catches up when it is shown again.

let ticks = 0;

function refresh(due) {
  if (document.hidden || document.querySelector("dialog[open]")) return;
  for (const part of document.querySelectorAll("[data-refresh]")) {
    if (due(Number(part.dataset.refresh)) && !part.classList.contains("htmx-request")) window.htmx.trigger(part, "kd:refresh");
  }
}

setInterval(() => { ticks += 1; refresh((seconds) => ticks % seconds === 0); }, 1000);
document.addEventListener("visibilitychange", () => refresh(() => true));
