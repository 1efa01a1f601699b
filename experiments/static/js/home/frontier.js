// The chart follows what the list above it is about: its cost across, a line at its limit.

document.addEventListener("htmx:afterSwap", () => {
  const { cost, under } = document.getElementById("frontier")?.dataset ?? {};
  const chart = document.getElementById("pareto");
  if (!cost || !chart) return;
  const url = new URL(chart.dataset.charts, location.href);
  if (url.searchParams.get("x") === cost && (url.searchParams.get("under") ?? "") === under) return;
  url.searchParams.set("x", cost);
  if (under) url.searchParams.set("under", under); else url.searchParams.delete("under");
  chart.dataset.charts = url.pathname + url.search;
  chart.dispatchEvent(new Event("kd:figures"));
});
