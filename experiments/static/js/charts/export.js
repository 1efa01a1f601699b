// A chart as a file: PNG and SVG as shown; CSV with every point of its curves, or the values of its picture.

function save(url, name) {
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

export async function download(card, kind) {
  const name = `${card.board.name}-${card.spec.key}`;
  try {
    if (kind === "csv") return card.curves ? save(card.board.csvUrl(card.keys), `${name}.csv`) : saveText(valuesOf(card.figure), `${name}.csv`);
    const Plotly = await card.board.plotly();
    const { data, layout } = card.picture();
    await Plotly.downloadImage({ data, layout }, { format: kind, filename: name, scale: kind === "png" ? 2 : 1, width: layout.width, height: layout.height });
  } catch (error) {
    window.kd.toast(error.message ?? String(error), { kind: "bad" });
  }
}

function saveText(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Spreadsheets run what begins with one of these: a quote before it keeps it a text.
function cell(value) {
  let text = String(value ?? "");
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// A row a cell: what is true, what was predicted, how often.
function matrixOf({ data: [{ x, y, text }], layout }) {
  const rows = [[layout.yaxis.title.text, layout.xaxis.title.text, "samples"]];
  y.forEach((truth, i) => x.forEach((guess, j) => rows.push([truth, guess, Number(text[i][j])])));
  return rows.map((row) => row.map(cell).join(",")).join("\r\n");
}

function valuesOf(figure) {
  if (figure.data[0]?.type === "heatmap") return matrixOf(figure);
  const rows = [["trace", "x", "y", "name"]];
  for (const trace of figure.data) trace.x.forEach((x, i) => rows.push([trace.name, x, trace.y[i], trace.text?.[i] ?? ""]));
  return rows.map((row) => row.map(cell).join(",")).join("\r\n");
}
