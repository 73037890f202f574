// The page, part by part.
const byId = id => document.getElementById(id);
const main = byId("main"), contents = byId("contents");

function part(id, title, ...children) {
  main.append(h("section", { id, "aria-labelledby": `${id}-h` }, h("h2", { id: `${id}-h` }, title), children));
  contents.append(h("a", { href: `#${id}` }, title));
}

function head() {
  byId("name").textContent = REPORT.scenario;
  byId("about").textContent = REPORT.about;
  byId("verdict").textContent = REPORT.verdict;
  byId("verdict").classList.add(REPORT.verdict === "held" ? "held" : "failed");
  const held = REPORT.expectations.filter(one => one.held).length;
  byId("facts").textContent = [`${held} of ${REPORT.expectations.length} expectations held`, `exit code ${REPORT.exit}`, `${REPORT.seconds.toFixed(1)} s`, `seed ${REPORT.seed}`,
    REPORT.engine && `engine ${REPORT.engine}`, DATA.environment?.kernel && `Linux ${DATA.environment.kernel}`].filter(Boolean).join(" · ");
}

function theClock() {
  const moment = byId("moment"), now = byId("now");
  const bounds = () => { [moment.min, moment.max] = clock.window; moment.value = clock.now; };
  moment.addEventListener("input", () => clock.set(+moment.value));
  clock.watch(what => {
    if (what === "window") bounds();
    if (what === "now" && document.activeElement !== moment) moment.value = clock.now;
    now.textContent = shownTime(hovering ?? clock.now);
  });
  bounds();
  byId("marks").append(...[["start", 0], ...HANDOVERS.map((one, n) => [HANDOVERS.length > 1 ? `handover ${n + 1}` : "handover", one.joined]), ["end", SPAN[1]]]
    .map(([name, at]) => h("button", { type: "button", onclick: () => clock.set(at) }, name)));
}

function verdict() {
  const row = one => h("tr", {},
    h("td", { class: one.held ? "held" : "failed" }, one.held ? "held" : one.disturbed?.length ? "UNSURE" : "FAILED"),
    h("td", {}, one.held ? null : h("p", { class: "failed" }, one.fail), h("code", {}, one.check),
      one.found.length ? h("details", { open: !one.held }, h("summary", { class: "quiet" }, "what was found"), h("pre", {}, one.found.join("\n"))) : null,
      one.disturbed?.length ? h("pre", { class: "quiet" }, one.disturbed.map(line => `disturbed: ${line}`).join("\n")) : null));
  part("verdict-of", "Expectations",
    REPORT.problems.map(problem => h("p", { class: "problem" }, problem)),
    REPORT.notes.map(note => h("p", { class: "note" }, note)),
    REPORT.expectations.length
      ? h("table", { class: "expect" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "verdict"), h("th", { scope: "col" }, "expectation"))), h("tbody", {}, REPORT.expectations.map(row)))
      : absent(REPORT.verdict === "held" ? "The scenario expects nothing." : "Nothing was judged."));
}

// A place for a plot, which is drawn when it has its width.
function figure(draw, ...arguments_) {
  const place = h("div", { class: "plot" });
  requestAnimationFrame(() => draw(place, ...arguments_));
  return place;
}

function overTime() {
  const series = DATA.series;
  const curves = series?.throughput?.filter(curve => curve.bytes.some(bytes => bytes > 0)) ?? [];
  const pings = series?.rtt?.filter(ping => ping.points.length) ?? [];
  const total = curve => curve.bytes.reduce((sum, bytes) => sum + bytes, 0);
  const mean = curve => {
    const first = curve.bytes.findIndex(bytes => bytes > 0), last = curve.bytes.findLastIndex(bytes => bytes > 0);
    return total(curve) * 8 / ((last - first + 1) * series.bin_ms * 1000);
  };
  if (series) series.throughput = curves;
  part("time", "Over time",
    h("p", { class: "quiet only-screen" }, "Drag to zoom, double-click for the whole run, click to set the moment.", HANDOVERS.length ? " The shaded times are those without a network." : ""),
    h("h3", {}, "Path"),
    PATHS.length ? [figure(plotPaths), h("details", {}, h("summary", {}, "every change"),
      table(null, ["time", "terminal", "peer", "way", "to", "epoch", "why"], PATHS.flatMap(path => path.changes.map(one => [shownTime(one.at), path.node, path.peer, one.route, one.remote, one.epoch, one.reason]))))]
      : absent("No terminal had a path."),
    h("h3", {}, "Throughput"),
    curves.length ? [h("p", { class: "quiet" }, `Data as the application at the receiver got it, in bins of ${series.bin_ms} ms.`), figure(plotThroughput),
      h("details", {}, h("summary", {}, "totals"), table(null, ["flow", "from", "to", "bytes", "Mbit/s while it ran", "most in a bin, Mbit/s"],
        curves.map(curve => [curve.flow, curve.from, curve.to, total(curve), mean(curve), Math.max(...curve.bytes) * 8 / series.bin_ms / 1000])))]
      : absent(series ? "No flow carried data." : "This run has no packet captures, so there is no throughput over time."),
    pings.length ? [h("h3", {}, "Round trips"), figure(plotRoundTrips, pings)] : null);
}

function handoverParts() {
  if (!HANDOVERS.length) return;
  part("handovers", HANDOVERS.length > 1 ? "Handovers" : "Handover", HANDOVERS.map((one, n) => {
    const whole = Math.max((one.stages.at(-1)?.end ?? one.joined) - (one.stages[0]?.begin ?? one.left), 1e-9);
    const quantity = name => REPORT.quantities[`handover.${n + 1}.${name}`];
    const facts = [["interruption_ms", "interruption without the gap"], ["control_ms", "from the new address to the first data"], ["gap_ms", "gap"]]
      .filter(([name]) => quantity(name) !== undefined).map(([name, about]) => `${about} ${quantity(name).toFixed(1)} ms`);
    return [h("h3", {}, `${one.node}: ${one.from} → ${one.to}, left at ${shownTime(one.left)}, new address at ${shownTime(one.joined)}`), facts.length ? h("p", {}, facts.join(" · ")) : null,
      h("div", { class: "stages", role: "img", "aria-label": one.stages.map(stage => `${stage.name} ${shownTime(stage.end - stage.begin)}`).join(", ") },
        one.stages.map((stage, m) => h("div", { style: `flex: ${Math.max(stage.end - stage.begin, 0) / whole} 1 0; background: var(--s${m}); color: var(--back)`, title: stage.name },
          (stage.end - stage.begin) / whole > .12 ? `${stage.name} ${shownTime(stage.end - stage.begin)}` : ""))),
      table(null, ["stage", "until", "begins", "ends", "takes, ms"], one.stages.map((stage, m) =>
        [h("span", {}, h("span", { class: "dot", style: `background: var(--s${m})` }), stage.name), stage.until, shownTime(stage.begin), shownTime(stage.end), +(stage.end - stage.begin).toFixed(3)])),
      one.missing.length ? absent(`Not observed: ${one.missing.join(", ")}.`) : null];
  }));
}

// What the first packet by a name waited for.
function firstPackets() {
  const flows = Object.entries(REPORT.first_packets ?? {});
  if (flows.length) part("first", "First packet", flows.map(([flow, one]) => [h("h3", {}, flow),
    h("p", {}, `${one.first_packet_ms.toFixed(2)} ms from the application's query to the first packet, encapsulated: ${one.network_ms.toFixed(2)} ms on the network, ${one.own_work_ms.toFixed(2)} ms of our own work.`),
    h("details", {}, h("summary", {}, "every leg"), table(null, ["from", "to", "what", "ms"], one.legs.map(leg => [leg.from, leg.to, leg.what, +leg.ms.toFixed(3)])))]));
}

function results() {
  const tables = REPORT.tables ?? [];
  const entry = value => value === "holds" ? h("span", { class: "held" }, value) : value === "FAILS" ? h("span", { class: "failed" }, value)
    : typeof value === "number" ? +value.toFixed(3) : value;
  if (tables.length) part("tables", "Results", tables.map(one => [table(one.title, one.columns, one.rows.map(row => row.map(entry))), (one.notes ?? []).map(note => h("p", { class: "quiet" }, note))]));
}

// An entry of a Relay Table, field by field, with the moment each was filled (TA-c).
function relayEntry(entry) {
  return table(`${entry.mode}, used last at ${shownTime(entry.used_ms)}`, ["field", "filled by", "at", "content"], entry.fields.map(field =>
    [field.name, field.filled_by, field.filled_ms === null ? "not yet" : shownTime(field.filled_ms), field.content === null ? "" : h("span", { class: "mono" }, shown(field.content))]));
}

// What stood in a packet's headers, hop by hop (Figs. 4.2 and 4.4).
function transition(one) {
  const arrow = pair => pair ? `${pair[0]} → ${pair[1]}` : "none";
  const hops = (caption, list) => table(caption, ["at", "outer header", "original packet"],
    list.map(hop => [hop.at, arrow(hop.outer), hop.readable ? arrow(hop.original) : h("span", { class: "quiet" }, `(${arrow(hop.original)})`)]));
  return [h("h3", {}, `${one.route}: ${one.from} → ${one.to}, from ${shownTime(one.since_ms)}`),
    h("p", {}, one.changed ? h("span", { class: "failed" }, `${one.changed} of ${one.compared} packets were not the same at every place`)
      : `${one.compared} packets were compared at two places or more: header, ciphertext and MAC were the same everywhere.`),
    hops(`from ${one.from}`, one.forward), hops(`to ${one.from}`, one.back)];
}

function stateTables() {
  const transitions = REPORT.transitions ?? [];
  if (transitions.length) part("transitions", "Address transitions",
    h("p", { class: "quiet" }, "What stood in the headers of a packet at each place of its way. In brackets: the place cannot read it, it is what the ends have."),
    transitions.map(transition));
  const status = DATA.status ?? {};
  const relays = Object.entries(REPORT.relay_table ?? {});
  part("relay", "Relay Table", relays.length ? relays.map(([relay, entries]) => [h("h3", {}, relay), entries.length ? entries.map(relayEntry) : absent("Empty at the end.")])
    : absent("No relay was in this run."));
  const routers = Object.entries(status).filter(([, one]) => one?.mappings);
  part("nat", "NAT tables", routers.length
    ? routers.map(([name, one]) => one.mappings.length ? tableOf(`${name}, ${shown(one.behaviour)}, outside ${shown(one.external)}, at the end`, one.mappings)
      : absent(`${name}, ${shown(one.behaviour)}, outside ${shown(one.external)}: no mapping at the end.`))
    : absent(WORLD.routers.length ? "The routers' tables were not recorded." : "No router was in this run."));
}

function quantities() {
  const rows = [...Object.entries(REPORT.quantities), ...Object.entries(REPORT.unmeasured).map(([name, why]) => [name, h("span", { class: "failed" }, `not measured: ${why}`)])];
  const place = h("div", {});
  const show = text => place.replaceChildren(table(null, ["quantity", "value"], rows.filter(([name]) => name.includes(text)).map(([name, value]) => [h("code", {}, name), value])));
  show("");
  part("quantities", "Quantities", h("p", { class: "filters" }, h("input", { type: "search", placeholder: "find a quantity", "aria-label": "find a quantity", oninput: event => show(event.target.value.trim()) })), place);
}

function theRest() {
  const machine = DATA.environment;
  const programs = machine?.programs ?? {};
  part("run", "The run",
    machine ? table("Environment", ["what", "value"], [...Object.entries(machine).filter(([name]) => name !== "programs"), ...Object.entries(programs)]) : absent("The environment was not recorded."),
    DATA.links ? h("details", {}, h("summary", {}, "Links in user space"), h("pre", {}, JSON.stringify(DATA.links, null, 1))) : null,
    DATA.scenario ? h("details", {}, h("summary", {}, "Scenario file"), h("pre", {}, DATA.scenario)) : null,
    DATA.status ? h("details", {}, h("summary", {}, "What every daemon said of itself at the end"), h("pre", {}, JSON.stringify(DATA.status, null, 1))) : null);
}

// What one run shows over its time. Of many runs, each has that on a page of its own.
function oneRun() {
  overTime();
  handoverParts();
  firstPackets();
  part("topology", "Topology", WORLD.hosts.length ? topology() : absent("The report does not hold the topology."));
  part("messages", "Messages", ladder());
  stateTables();
}

head();
theClock();
if (ROUNDS) {
  byId("clock").style.display = "none";
  results();
  rounds();
  verdict();
} else {
  verdict();
  results();
  oneRun();
}
quantities();
theRest();
clock.set(HANDOVERS[0]?.joined ?? SPAN[1]);
if (location.hash && !/^#[mn]\d+$/.test(location.hash)) byId(location.hash.slice(1))?.scrollIntoView();
// In the frame in which the plots and the ladder were made, behind them.
requestAnimationFrame(() => { document.documentElement.dataset.ready = "yes"; });
