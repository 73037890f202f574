// A scenario that was run in rounds: what each round measured, with means and their intervals.
const SAMPLES = REPORT.samples ?? {};
const ROUNDS = Object.keys(SAMPLES).length > 0;

// Quantity → the cells that it is shown of, each with its samples' name.
function sampled() {
  const shown = (REPORT.tables ?? []).find(one => one.columns[0] === "quantity")?.rows.map(row => row[0]) ?? [];
  const out = new Map();
  for (const name of shown.filter(name => SAMPLES[name]?.length)) {
    const [, cell, quantity] = name.match(/^cell\.([^.]+)\.(.+)$/) ?? [null, "", name];
    if (!out.has(quantity)) out.set(quantity, []);
    out.get(quantity).push({ cell, name });
  }
  return out;
}

// A column for each cell: a point for each round, in their order from left to right, and behind them the mean with its interval.
function plotSamples(place, quantity, cells) {
  const points = cells.flatMap(({ name }, column) => SAMPLES[name].map((value, round, all) => [column + (all.length > 1 ? round / (all.length - 1) - .5 : 0) * .4, value]));
  const axis = { stroke: () => colour("quiet"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { stroke: () => colour("line"), width: 1 }, font: "12px system-ui" };
  const narrow = place.clientWidth < 90 * cells.length;
  const means = u => {
    const { ctx } = u;
    ctx.save();
    cells.forEach(({ name }, column) => {
      const mean = REPORT.quantities[`${name}.mean`], half = REPORT.quantities[`${name}.ci95`] ?? 0;
      if (mean === undefined) return;
      const [left, right] = [column - .3, column + .3].map(at => u.valToPos(at, "x", true));
      const [low, high] = [mean - half, mean + half].map(at => u.valToPos(at, "y", true));
      ctx.fillStyle = colour("s0");
      ctx.globalAlpha = .22;
      ctx.fillRect(left, high, right - left, Math.max(low - high, 1));
      ctx.globalAlpha = 1;
      ctx.fillRect(left, u.valToPos(mean, "y", true) - devicePixelRatio, right - left, 2 * devicePixelRatio);
    });
    ctx.restore();
  };
  const all = cells.flatMap(({ name }) => [...SAMPLES[name], ...[-1, 1].map(side => REPORT.quantities[`${name}.mean`] + side * (REPORT.quantities[`${name}.ci95`] ?? 0))]).filter(Number.isFinite);
  const [least, most] = [Math.min(...all), Math.max(...all)], room = (most - least || Math.abs(most) || 1) * .08;
  const u = new uPlot({
    width: place.clientWidth, height: narrow ? 270 : 220,
    scales: { x: { time: false, range: [-.6, cells.length - .4] }, y: { range: [least - room, most + room] } },
    legend: { show: false }, cursor: { show: false },
    axes: [
      { ...axis, splits: () => cells.map((_, column) => column), values: () => cells.map(({ cell }) => cell), grid: { show: false }, ...(narrow ? { rotate: -60, size: 80 } : { size: 28 }) },
      { ...axis, size: 60 },
    ],
    series: [{}, { label: quantity, stroke: () => colour("ink"), paths: () => null, points: { show: true, size: 6, fill: () => colour("ink") } }],
    hooks: { drawClear: [means] },
  }, [points.map(([at]) => at), points.map(([, value]) => value)], place);
  SAMPLED.push({ u, place });
}
const SAMPLED = [];
const again = () => { for (const { u, place } of SAMPLED) place.clientWidth && place.clientWidth !== u.width ? u.setSize({ width: place.clientWidth, height: u.height }) : u.redraw(); };
addEventListener("resize", again);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
matchMedia("print").addEventListener("change", again);

function rounds() {
  const shown = [...sampled()];
  part("rounds", "Every round",
    h("p", { class: "quiet" }, "A point for each round, in their order; the line is their mean, the shaded height its 95 % confidence interval. Each round left a report of its own in cells/."),
    shown.map(([quantity, cells]) => [h("h3", {}, h("code", {}, quantity)), figure(plotSamples, quantity, cells),
      h("details", {}, h("summary", {}, "values"), table(null, ["cell", "rounds"], cells.map(({ cell, name }) => [cell, SAMPLES[name].map(value => shownNumber(value)).join("  ")])))]));
}
const shownNumber = value => String(+value.toPrecision(6));
