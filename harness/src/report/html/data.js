// The run's data, its one clock, and small helpers.
const DATA = JSON.parse(document.getElementById("data").textContent);
const REPORT = DATA.report;
const WORLD = REPORT.topology ?? { internet: "", routers: [], hosts: [] };
const MESSAGES = DATA.ladder.messages;
const NOTES = DATA.ladder.notes;

// Time zero is when time begins in the run; without a beginning, the first observation. Everything below is in milliseconds from there.
const ZERO = REPORT.start || Math.min(...[...MESSAGES.map(m => m.sent ?? m.received), ...NOTES.map(n => n.t)], Infinity);
const since = nanos => (nanos - ZERO) / 1e6;
for (const message of MESSAGES) {
  message.begin = message.sent === null ? null : since(message.sent);
  message.end = message.received === null ? null : since(message.received);
  message.at = message.begin ?? message.end;
  message.alive = message.kind.includes("KeepAlive");
}
for (const note of NOTES) note.at = since(note.t);
const HANDOVERS = (REPORT.handovers ?? []).map(h => ({ ...h, left: since(h.left), joined: since(h.joined),
  stages: h.stages.map(s => ({ ...s, begin: since(s.begin), end: since(s.end) })) }));

const SPAN = (() => {
  let [first, last] = [0, 1];
  for (const { at } of MESSAGES) { first = Math.min(first, at); last = Math.max(last, at); }
  for (const { at } of NOTES) { first = Math.min(first, at); last = Math.max(last, at); }
  const series = DATA.series;
  for (const curve of series?.throughput ?? []) last = Math.max(last, curve.bytes.length * series.bin_ms);
  for (const ping of series?.rtt ?? []) for (const [at] of ping.points) last = Math.max(last, at);
  return [Math.floor(first), Math.ceil(last)];
})();

// The one clock: the moment that topology and ladder show, and the window that plots and ladder show.
const clock = {
  now: SPAN[1], window: [...SPAN], watchers: [],
  watch(watcher) { this.watchers.push(watcher); },
  tell(what) { for (const watcher of this.watchers) watcher(what); },
  set(now) {
    this.now = Math.min(Math.max(now, SPAN[0]), SPAN[1]);
    this.tell("now");
  },
  zoom(from, to) {
    if (!(to > from) || (from === this.window[0] && to === this.window[1])) return;
    this.window = [from, to];
    this.tell("window");
  },
};

// An element with attributes and children; texts are texts, never markup.
function h(tag, attributes, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "line", "title", "tspan"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}
const shownTime = ms => {
  const size = Math.abs(ms);
  return size >= 1000 ? `${(ms / 1000).toFixed(3)} s` : `${ms.toFixed(size < 10 ? 2 : 1)} ms`;
};
const spell = kind => kind.replace(/([a-z])([A-Z])/g, "$1 $2");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const routeColour = route => ({ direct: "direct", "RS-S": "rs-s", "RS-N": "rs-n" })[route] ?? "none";

// A value in a table's cell.
function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(+value.toPrecision(6));
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.length ? value.map(shown).join(", ") : "none";
  if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${name} ${shown(one)}`).join(", ");
  return String(value);
}
function table(caption, columns, rows, attributes) {
  const cell = value => value instanceof Node ? h("td", {}, value)
    : h("td", { class: typeof value === "number" ? "number" : null }, shown(value));
  return h("div", { class: "scroll" }, h("table", attributes,
    caption && h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map(name => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map(row => h("tr", {}, row.map(cell))))));
}
// A table of objects, with a column for each field that one of them has. Times of the run's clock are shown on it.
function tableOf(caption, objects) {
  const columns = [...new Set(objects.flatMap(Object.keys))];
  const value = one => typeof one === "number" && REPORT.start && one >= REPORT.start - 1e12 && one > 1e9 ? shownTime(since(one))
    : Array.isArray(one) ? h("div", {}, one.map(item => h("div", {}, shown(timed(item))))) : one && typeof one === "object" ? shown(timed(one)) : one;
  const timed = one => one && typeof one === "object" && !Array.isArray(one)
    ? Object.fromEntries(Object.entries(one).map(([name, item]) => [name, value(item)])) : one;
  return table(caption, columns.map(name => name.replaceAll("_", " ")), objects.map(object => columns.map(name => value(object[name]))));
}
// One line in place of a part that has nothing to show.
const absent = why => h("p", { class: "quiet" }, why);

// Who has an address, and which host bears a name.
const bare = socket => (socket ?? "").replace(/^\[(.*)\]:\d+$/, "$1").replace(/^([^:]*):\d+$/, "$1");
const hostAt = address => WORLD.hosts.find(host => host.interfaces.some(one => one.addresses.includes(bare(address))));
const routerAt = address => WORLD.routers.find(router => router.outer.includes(bare(address)));
const hostNamed = fqdn => WORLD.hosts.find(host => host.fqdn === fqdn);

// The peer of each path, as its ends were told.
const PEERS = new Map();
for (const message of MESSAGES) {
  if (message.kind === "RouteDirection" && message.path && message.fields.peer) PEERS.set(`${message.to} ${message.path}`, message.fields.peer);
}
for (const [node, status] of Object.entries(DATA.status ?? {})) {
  for (const path of status?.paths ?? []) if (path.peer && !PEERS.has(`${node} ${path.path}`)) PEERS.set(`${node} ${path.path}`, path.peer);
}
// Each terminal's paths, with every change of way: [{ node, path, peer, changes: [{ at, route, remote, epoch, reason }] }].
const PATHS = (() => {
  const all = new Map();
  for (const note of NOTES) {
    if (note.what !== "path-changed") continue;
    const key = `${note.node} ${note.path}`;
    if (!all.has(key)) all.set(key, { node: note.node, path: note.path, peer: PEERS.get(key) ?? note.path.slice(0, 8), changes: [] });
    all.get(key).changes.push(note);
  }
  return [...all.values()];
})();
const wayAt = (path, now) => path.changes.findLast(change => change.at <= now);
