// Plots over the run's clock, drawn by uPlot: paths, throughput, round trips. Cursor and zoom are shared.
const PLOTS = [];
let zooming = false;

function plot(place, options, data) {
  const line = h("div", { class: "now-line" });
  const mark = u => { line.style.left = `${u.valToPos(clock.now, "x")}px`; line.hidden = clock.now < u.scales.x.min || clock.now > u.scales.x.max; };
  const axis = { stroke: () => colour("quiet"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { stroke: () => colour("line"), width: 1 }, font: "12px system-ui" };
  const u = new uPlot({
    width: place.clientWidth, height: options.height,
    scales: { x: { time: false, range: (u, min, max) => [min, max] }, ...options.scales },
    legend: options.legend ?? {},
    cursor: { sync: { key: "run", scales: ["x", null], setSeries: false }, drag: { x: true, y: false, setScale: true }, y: false, points: { size: 6 } },
    axes: [
      { ...axis, values: (u, ticks) => ticks.map(tick => `${+(tick / 1000).toFixed(4)} s`), space: 60, size: 28 },
      { ...axis, size: 44, labelSize: 18, labelFont: "12px system-ui", ...options.axis },
    ],
    series: [{ label: "time", value: (u, at) => at === null ? "" : shownTime(at) }, ...options.series],
    hooks: {
      init: [u => { u.over.append(line); u.over.addEventListener("click", () => { if (u.cursor.left >= 0) clock.set(u.posToVal(u.cursor.left, "x")); });
        u.over.addEventListener("dblclick", () => clock.zoom(...SPAN)); }],
      drawClear: [u => handovers(u)],
      ready: [mark], draw: [mark, ...(options.draw ?? [])],
      setCursor: [u => hover(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)],
      setScale: [(u, key) => { if (key === "x" && !zooming && u.status === 1) clock.zoom(u.scales.x.min, u.scales.x.max); }],
    },
  }, data, place);
  u.setScale("x", { min: clock.window[0], max: clock.window[1] });
  PLOTS.push({ u, place, mark });
  return u;
}

// The times without a network, behind the curves.
function handovers(u) {
  const { ctx, bbox } = u;
  ctx.save();
  for (const { left, joined } of HANDOVERS) {
    const [from, to] = [left, joined].map(at => Math.min(Math.max(u.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width));
    ctx.fillStyle = colour("failed");
    ctx.globalAlpha = .16;
    ctx.fillRect(from, bbox.top, Math.max(to - from, 1), bbox.height);
  }
  ctx.restore();
}

let hovering = null;
function hover(at) {
  if (at === hovering) return;
  hovering = at;
  clock.tell("hover");
}

clock.watch(what => {
  if (what === "now") for (const { u, mark } of PLOTS) mark(u);
  if (what === "window") {
    zooming = true;
    for (const { u } of PLOTS) u.setScale("x", { min: clock.window[0], max: clock.window[1] });
    zooming = false;
  }
});

function resize() {
  for (const { u, place } of PLOTS) if (place.clientWidth && place.clientWidth !== u.width) u.setSize({ width: place.clientWidth, height: u.height });
}
addEventListener("resize", resize);
const redraw = () => { for (const { u } of PLOTS) u.redraw(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("print").addEventListener("change", () => { resize(); redraw(); });

// One row for each path of each terminal; what it takes from each change to the next.
function plotPaths(place) {
  const segments = PATHS.map(path => path.changes.map((change, n) => ({ ...change, until: path.changes[n + 1]?.at ?? SPAN[1] })));
  const draw = u => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const half = 8 * devicePixelRatio, font = `${12 * devicePixelRatio}px system-ui`;
    segments.forEach((row, n) => {
      const y = u.valToPos(n + .72, "y", true);
      ctx.font = font;
      ctx.globalAlpha = 1;
      ctx.fillStyle = colour("ink");
      ctx.textAlign = "left";
      ctx.textBaseline = "middle";
      ctx.fillText(`${PATHS[n].node} → ${PATHS[n].peer}`, bbox.left + 4 * devicePixelRatio, u.valToPos(n + .28, "y", true));
      for (const segment of row) {
        const [from, to] = [segment.at, segment.until].map(at => u.valToPos(at, "x", true));
        ctx.fillStyle = colour(routeColour(segment.route));
        ctx.globalAlpha = segment.route === "none" ? .35 : .9;
        ctx.fillRect(from, y - half, Math.max(to - from, 2), half * 2);
        const text = segment.route === "none" ? "no way" : segment.route;
        const seen = Math.min(to, bbox.left + bbox.width) - Math.max(from, bbox.left);
        ctx.font = `600 ${font}`;
        if (seen > ctx.measureText(text).width + 8) {
          ctx.globalAlpha = 1;
          ctx.fillStyle = segment.route === "none" ? colour("ink") : colour("back");
          ctx.textAlign = "center";
          ctx.textBaseline = "middle";
          ctx.fillText(text, Math.max(from, bbox.left) + seen / 2, y);
        }
      }
    });
    ctx.restore();
  };
  plot(place, {
    height: 34 + 44 * PATHS.length, legend: { show: false }, draw: [draw],
    scales: { y: { range: [0, PATHS.length], dir: -1 } },
    axis: { splits: () => [], label: " ", grid: { show: false } },
    series: [{ scale: "y", points: { show: false } }],
  }, [SPAN, [null, null]]);
}

function plotThroughput(place) {
  const { bin_ms, throughput } = DATA.series;
  const bins = Math.max(...throughput.map(curve => curve.bytes.length));
  const times = Array.from({ length: bins }, (_, n) => (n + .5) * bin_ms);
  const rate = bytes => bytes * 8 / bin_ms / 1000;
  // A flow that is at rest has no curve, so that it does not hide others.
  const column = ({ bytes }) => times.map((_, n) => bytes[n] || bytes[n - 1] || bytes[n + 1] ? rate(bytes[n] ?? 0) : null);
  plot(place, {
    height: 260, series: throughput.map((curve, n) => ({
      label: `${curve.flow}: ${curve.from} → ${curve.to}`, stroke: () => colour(`s${n % 8}`), width: 1.6, points: { show: false },
      dash: n >= 8 ? [6, 3] : [], value: (u, value) => value === null ? "" : `${value.toFixed(1)} Mbit/s`,
    })),
    axis: { label: "Mbit/s" },
  }, [times, ...throughput.map(column)]);
}

function plotRoundTrips(place, pings) {
  // One column of times for all: where another ping has its point, this one has none.
  const times = [...new Set(pings.flatMap(ping => ping.points.map(([at]) => at)))].sort((a, b) => a - b);
  const column = ping => { const points = new Map(ping.points); return times.map(at => points.has(at) ? points.get(at) : undefined); };
  plot(place, {
    height: 200, series: pings.map((ping, n) => ({
      label: `${ping.flow}: ${ping.from} ↔ ${ping.to}`, stroke: () => colour(`s${n % 8}`), width: 1.4,
      points: { show: ping.points.length < 150, size: 4 }, value: (u, value) => value === null || value === undefined ? "" : `${value.toFixed(2)} ms`,
    })),
    axis: { label: "round trip, ms" },
  }, [times, ...pings.map(column)]);
}
