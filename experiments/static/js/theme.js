// Runs before the first paint, so that a dark page never flashes white. `data-theme` is what is shown
// (light or dark), `data-theme-choice` what the reader chose (system, light or dark).
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem("kd-theme") || "system"; } catch { return "system"; }
  };
  const apply = (choice) => {
    root.dataset.themeChoice = choice;
    root.dataset.theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
    document.dispatchEvent(new CustomEvent("kd:theme", { detail: root.dataset.theme }));
  };
  window.kdTheme = (choice) => {
    try { localStorage.setItem("kd-theme", choice); } catch { /* private windows forget; the page still switches */ }
    apply(choice);
  };
  system.addEventListener("change", () => apply(stored()));
  addEventListener("storage", (event) => { if (event.key === "kd-theme") apply(stored()); });
  apply(stored());
})();
