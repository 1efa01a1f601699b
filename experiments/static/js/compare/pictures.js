// The switches of a picture: each asks for the picture anew and is kept in the address.
import { remember } from "./address.js";

const PLAIN = { cost: "parameters", x: "parameters", y: "accuracy" }; // what needs no word in the address

export function pictures(root) {
  for (const form of root.querySelectorAll("[data-picture]")) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", (event) => changed(form, event.target));
  }
}

function changed(form, control) {
  const charts = form.parentElement.querySelector("[data-charts]");
  const url = new URL(charts.dataset.charts, location.href);
  for (const name of ["x", "y", "logx", "logy"]) url.searchParams.delete(name);
  for (const [name, value] of new FormData(form)) url.searchParams.set(name, value);
  charts.dataset.charts = url.pathname + url.search;
  const value = control.type === "checkbox" && !control.checked ? "" : control.value;
  remember(control.dataset.param, value === PLAIN[control.dataset.param] ? "" : value);
  charts.dispatchEvent(new Event("kd:figures"));
}
