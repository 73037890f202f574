// The world at the clock's moment: who is where, with which address, and which way each path takes.

// Whether an interface is up at `now`: as at the start, then as the harness switched it.
function isUp(host, one, now) {
  const switched = NOTES.findLast(note => note.at <= now && note.node === host.name && note.interface === one.name && (note.what === "left" || note.what === "joined"));
  return switched ? switched.what === "joined" : one.up;
}
// An interface's addresses at `now`: that which the harness gave it last, or the first; in IPv6 besides.
function addressesOf(host, one, now) {
  const given = NOTES.findLast(note => note.at <= now && note.node === host.name && note.interface === one.name && note.what === "joined")?.address ?? one.addresses[0];
  return [given, ...one.addresses.filter(address => address.includes(":") && address !== given)].filter(Boolean);
}
// A terminal's virtual address, as the coordinator gave it.
const virtualOf = host => NOTES.find(note => note.what === "registered" && note.fqdn === host.fqdn && note.vip)?.vip;

function drawTopology(place, ways) {
  const now = clock.now, room = Math.max(place.clientWidth || 360, 340);
  const box = Math.min(168, Math.max(104, Math.floor(room / Math.max(3, Math.min(6, WORLD.hosts.length)) - 14))), gap = 14;
  const inside = host => host.interfaces.some(one => one.behind);
  const [outer, inner] = [WORLD.hosts.filter(host => !inside(host)), WORLD.hosts.filter(inside)];
  const width = Math.max(room, Math.max(WORLD.routers.length, inner.length) * (box + gap) + gap);
  const lines = host => host.interfaces.flatMap(one => addressesOf(host, one, now).map(address => ({ one, text: host.interfaces.length > 1 ? `${one.name} ${address}` : address })));
  const height = host => 42 + 15 * (lines(host).length + (virtualOf(host) ? 1 : 0));
  const fit = text => text.length * 6.4 > box ? `${text.slice(0, Math.floor(box / 6.4) - 1)}…` : text;

  // Hosts on the internet, in rows above it.
  const perRow = Math.max(1, Math.min(outer.length, Math.floor((width - gap) / (box + gap))));
  const at = new Map();
  let y = 8;
  for (let n = 0, odd = false; n < outer.length; odd = !odd) {
    // Every second row stands between the columns of the first, so that no line passes behind a box.
    const row = outer.slice(n, n + Math.max(1, perRow - (odd ? 1 : 0))), high = Math.max(...row.map(height));
    row.forEach((host, m) => at.set(host.name, { x: width * (m + (odd ? 1 : .5)) / perRow, y: y + (high - height(host)), h: height(host), host }));
    y += high + 16;
    n += row.length;
  }
  const net = { y: y + 12, h: 32 };
  y = net.y + net.h + 30;
  WORLD.routers.forEach((router, n) => at.set(router.name, { x: width * (n + .5) / WORLD.routers.length, y, h: 42 + 15 * router.outer.length, router }));
  if (WORLD.routers.length) y += Math.max(...WORLD.routers.map(router => at.get(router.name).h)) + 44;

  // Hosts behind routers, below those that they can be behind, side by side.
  const middle = host => {
    const xs = host.interfaces.map(one => one.behind ? at.get(one.behind)?.x : width / 2).filter(x => x !== undefined);
    return xs.reduce((sum, x) => sum + x, 0) / xs.length;
  };
  const row = inner.map(host => ({ host, x: middle(host) })).sort((a, b) => a.x - b.x);
  row.forEach((one, n) => { one.x = Math.max(one.x, n ? row[n - 1].x + box + gap : box / 2 + 2); });
  for (let n = row.length - 1, most = width - box / 2 - 2; n >= 0; n--, most = row[n + 1].x - box - gap) row[n].x = Math.min(row[n].x, most);
  for (const { host, x } of row) at.set(host.name, { x, y, h: height(host), host });
  if (row.length) y += Math.max(...inner.map(height)) + 8;

  const centre = name => { const { x, y, h } = at.get(name); return [x, y + h / 2]; };
  const band = net.y + net.h / 2;
  const svg = h("svg", { viewBox: `0 0 ${width} ${y}`, width, height: y, role: "img", "aria-label": `Topology at ${shownTime(now)}` });

  // From a host by one of its interfaces to the internet.
  const steps = (host, n) => {
    const { x, y, h: high } = at.get(host.name), behind = host.interfaces[n].behind, router = behind && at.get(behind);
    const out = x + (n - (host.interfaces.length - 1) / 2) * 26;
    return router ? [[out, y + high / 2], [out, router.y + router.h + 22], [router.x, router.y + router.h], [router.x, band]] : [[out, y + high / 2], [out, band]];
  };
  const line = (points, shift = 0) => points.map(([x, y], n) => `${n ? "L" : "M"}${x + shift} ${y + shift}`).join(" ");
  for (const { host } of [...at.values()].filter(one => one.host)) {
    host.interfaces.forEach((one, n) => svg.append(h("path", { class: isUp(host, one, now) ? "wire" : "wire off", d: line(steps(host, n).slice(0, one.behind ? 3 : 2)) })));
  }
  for (const router of WORLD.routers) {
    const { x, y, h: high } = at.get(router.name);
    svg.append(h("path", { class: "wire", d: `M${x} ${y} L${x} ${band}` }));
    svg.append(h("text", { class: "soft", x, y: y + high + 14 }, router.inner.join(" ")));
  }
  svg.append(h("g", { class: "net" }, h("rect", { x: 4, y: net.y, width: width - 8, height: net.h, rx: 14 })));

  // The ways in use: from the terminal by its router to whom it sends.
  const up = host => steps(host, Math.max(0, host.interfaces.findIndex(one => isUp(host, one, now))));
  ways.forEach(({ path, way }, n) => {
    const host = WORLD.hosts.find(one => one.name === path.node), peer = hostNamed(path.peer);
    if (!host || !way?.remote || way.route === "none") return;
    const to = hostAt(way.remote) ?? peer;
    const hops = [host, to, ...(way.route === "RS-N" && peer && peer !== to ? [peer] : [])].filter(Boolean);
    const points = hops.flatMap((hop, m) => m === 0 ? up(hop) : m < hops.length - 1 ? [...up(hop).reverse(), ...up(hop)] : up(hop).reverse());
    const shift = (n - (ways.length - 1) / 2) * 6;
    svg.append(h("path", { class: "way", stroke: `var(--${routeColour(way.route)})`, d: line(points, shift) }));
  });
  svg.append(h("text", { class: "over", x: width / 2, y: net.y + 20 }, `internet ${WORLD.internet}`));

  for (const [name, { x, y, h: high, host, router }] of at) {
    const text = (content, dy, kind) => h("text", { x, y: y + dy, class: kind }, fit(content));
    const body = router
      ? [text(name, 17, "bold"), text(router.nat === "none" ? "router" : fit(`NAT ${router.nat}`).endsWith("…") ? router.nat : `NAT ${router.nat}`, 32, "soft"), ...router.outer.map((address, n) => text(address, 48 + 15 * n))]
      : [text(name, 17, "bold"), text(host.role, 32, "soft"),
        ...lines(host).map(({ one, text: line }, n) => text(line, 48 + 15 * n, isUp(host, one, now) ? null : "off-text")),
        virtualOf(host) && text(`VIP ${virtualOf(host)}`, 48 + 15 * lines(host).length, "soft")];
    svg.append(h("g", { class: router ? "router" : "host" }, h("title", {}, host?.fqdn ?? name),
      h("rect", { x: x - box / 2, y, width: box, height: high, rx: 6 }), body));
  }
  place.replaceChildren(svg);
}

function topology() {
  const map = h("div", { class: "map scroll" }), list = h("ul", { class: "ways" });
  const draw = () => {
    const ways = PATHS.map(path => ({ path, way: wayAt(path, clock.now) }));
    drawTopology(map, ways);
    list.replaceChildren(...ways.map(({ path, way }) => {
      const via = way?.remote && (hostAt(way.remote)?.name ?? routerAt(way.remote)?.name);
      return h("li", {}, h("span", { class: "dot", style: `background: var(--${routeColour(way?.route)})` }), `${path.node} → ${path.peer}: `,
        way ? h("strong", {}, way.route === "none" ? "no way" : way.route) : "no path yet",
        way?.remote && ` to ${way.remote}${via ? ` (${via})` : ""}, epoch ${way.epoch}`, way && h("span", { class: "quiet" }, ` — ${way.reason}, since ${shownTime(way.at)}`));
    }));
  };
  let asked = 0;
  clock.watch(what => { if (what === "now" && !asked) asked = requestAnimationFrame(() => { asked = 0; draw(); }); });
  addEventListener("resize", draw);
  requestAnimationFrame(draw);
  return [h("p", { class: "quiet only-screen" }, "At the moment that is set above, or by a click into a plot or on a message."), map, PATHS.length ? list : absent("No terminal had a path.")];
}
