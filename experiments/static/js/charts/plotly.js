// Loads Plotly once, from our own host. It would insert two style elements, which the content security policy
// forbids; elements with the ids it looks for keep it from trying: the first is its style sheet as a file, the
// second stands for the styles of maps, of which there are none here.
const MAP_STYLES = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";
let loading;

export function plotly(script, styles) {
  loading ??= new Promise((resolve, reject) => {
    const sheet = Object.assign(document.createElement("link"), { rel: "stylesheet", href: styles, id: "plotly.js-style-global" });
    sheet.className = "no-inline-styles";
    const maps = Object.assign(document.createElement("template"), { id: MAP_STYLES });
    const element = Object.assign(document.createElement("script"), { src: script, async: true });
    element.addEventListener("load", () => resolve(window.Plotly));
    element.addEventListener("error", () => { loading = undefined; reject(new Error(gettext("The chart library could not be loaded."))); });
    document.head.append(sheet, maps, element);
  });
  return loading;
}
