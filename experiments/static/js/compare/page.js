// The page of a comparison: the list of runs as legend, tables that sort, pictures with their switches. All that
// is switched stands in the address, so that a link shows what its sender saw.
import { config } from "./config.js";
import { list } from "./list.js";
import { pictures } from "./pictures.js";
import { sortable } from "./sortable.js";

const root = document.querySelector("[data-compare]");
list(root);
pictures(root);
config(root.querySelector("[data-config]"));
for (const table of root.querySelectorAll("[data-sortable]")) sortable(table);
