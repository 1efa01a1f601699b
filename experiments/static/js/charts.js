// Draws the charts of a page: every element with data-charts, those that htmx brings later included.
import { Board } from "./charts/board.js";
import "./live.js";

const boards = new WeakSet();

function start(scope) {
  for (const root of scope.querySelectorAll("[data-charts]")) {
    if (boards.has(root)) continue;
    boards.add(root);
    new Board(root).open();
  }
}

start(document);
document.addEventListener("htmx:load", (event) => start(event.target.parentElement ?? document));
