// Plotly's colours and type from the page's own custom properties.

const read = (styles, name) => styles.getPropertyValue(`--${name}`).trim();

export function palette() {
  const styles = getComputedStyle(document.documentElement);
  return {
    color: (name) => read(styles, name) || read(styles, "ink-3"),
    ink: read(styles, "ink"), soft: read(styles, "ink-2"), axis: read(styles, "chart-axis"), grid: read(styles, "chart-grid"),
    line: read(styles, "line-2"), surface: read(styles, "surface"), bad: read(styles, "bad"),
    font: getComputedStyle(document.body).fontFamily,
  };
}

function dressTrace(trace, colors) {
  const color = colors.color(trace.meta?.color ?? "series-1");
  const dressed = { ...trace };
  if (trace.type === "heatmap") return { ...dressed, colorscale: [[0, colors.surface], [1, color]], textfont: { size: 11 } };
  if (trace.meta?.odd) return { ...dressed, line: { ...trace.line, color }, marker: { ...trace.marker, color } };
  if (trace.type === "bar") dressed.marker = { ...trace.marker, color, cornerradius: 2 };
  else if (trace.mode === "markers") dressed.marker = { ...trace.marker, color, line: { ...trace.marker?.line, color: trace.marker?.symbol?.endsWith("open") ? color : colors.surface } };
  else dressed.line = { ...trace.line, color };
  if (trace.text) dressed.textfont = { color: colors.soft, size: 12 };
  return dressed;
}

const dressAxis = (axis, colors) => ({
  gridcolor: colors.grid, linecolor: colors.line, zerolinecolor: colors.grid, tickcolor: colors.line,
  ticks: "", showline: false, zeroline: false, tickfont: { color: colors.axis, size: 11 }, ...axis,
  title: { font: { color: colors.axis, size: 11 }, standoff: 8, ...axis.title },
});

export function dress(figure, colors, narrow) {
  const { layout } = figure;
  return {
    data: figure.data.map((trace) => dressTrace(trace, colors)),
    layout: {
      ...layout,
      paper_bgcolor: colors.surface, plot_bgcolor: colors.surface, autosize: true, hoverdistance: 30, dragmode: "zoom",
      font: { family: colors.font, size: 12, color: colors.soft },
      margin: { l: narrow ? 40 : 52, r: 12, t: 10, b: 40, pad: 2 },
      hoverlabel: { bgcolor: colors.surface, bordercolor: colors.line, font: { color: colors.ink, size: 12, family: colors.font }, align: "left", namelength: 32 },
      xaxis: { ...dressAxis(layout.xaxis, colors), showgrid: Boolean(layout.xaxis.type === "log"), showline: true, nticks: narrow ? 5 : 8, spikethickness: 1, spikedash: "solid", spikecolor: colors.line },
      yaxis: { nticks: 6, ...dressAxis(layout.yaxis, colors) },
      shapes: layout.shapes.map((shape) => ({ ...shape, line: { ...shape.line, color: shape.name === "axis" ? colors.axis : colors.color(shape.name) } })),
      // Curves behind a label shine through it.
      annotations: layout.annotations.map((note) => ({ ...note, font: { ...note.font, color: colors.color(note.name) }, bgcolor: `${colors.surface}b0` })),
    },
  };
}
