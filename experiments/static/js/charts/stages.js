// Where one stage of a run ends and the next begins: a line in the charts of steps, named on either side.

// The x of a step as the chart shows it, by the curve that knows its time.
function placed({ points, place }, step) {
  let at = points.s.findIndex((one) => one >= step);
  if (at < 0) at = points.s.length - 1;
  return at < 0 ? null : place(step, points.w[at]);
}

const note = (text, x, side) => ({
  text, x, xref: "x", xanchor: side, y: 1, yref: "y domain", yanchor: "top", showarrow: false, borderpad: 3, name: "ink-2", font: { size: 11 },
});

export function staged(layout, plan) {
  const stages = layout.meta?.stages ?? [];
  if (stages.length < 2 || !plan.length) return layout;
  const shapes = [...layout.shapes], annotations = [...layout.annotations];
  stages.slice(0, -1).forEach((stage, i) => {
    const x = placed(plan[0], stage.last_step);
    if (x === null) return;
    shapes.push({ type: "line", name: "axis", layer: "below", xref: "x", x0: x, x1: x, yref: "y domain", y0: 0, y1: 1, line: { width: 1, dash: "dash" } });
    annotations.push(note(stage.name, x, "right"), note(stages[i + 1].name, x, "left"));
  });
  return { ...layout, shapes, annotations };
}
