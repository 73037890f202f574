// The message ladder: a line of life for each node, an arrow for each message, what happened at a node between them.

// The nodes in an order that keeps arrows short: who begins, those in the middle, who is called.
const LIVES = (() => {
  const rank = { terminal: 0, coordinator: 1, dns: 2, relay: 3, general: 4 };
  const callers = new Set(NOTES.filter(note => note.what === "query").map(note => note.node));
  const of = host => host.role === "terminal" && callers.size && !callers.has(host.name) ? 5 : rank[host.role] ?? 6;
  const known = [...WORLD.hosts].sort((a, b) => of(a) - of(b)).map(host => host.name);
  const heard = [...MESSAGES.flatMap(m => [m.from, m.to]), ...NOTES.map(n => n.node)];
  const routers = new Set(WORLD.routers.map(router => router.name));
  return [...new Set([...known, ...heard.filter(name => name && !routers.has(name))])].filter(name => heard.includes(name));
})();
const ROLES = new Map(WORLD.hosts.map(host => [host.name, host.role]));

// What happened at one node, in a few words.
function inWords(note) {
  switch (note.what) {
    case "asked": return `asks ${note.lookup} ${note.name}`;
    case "answered": return `${note.lookup}: ${note.answer}`;
    case "registered": return `registered ${note.fqdn === WORLD.hosts.find(host => host.name === note.node)?.fqdn ? "" : note.fqdn.split(".")[0]}${note.vip ? ` ${note.vip}` : ""}`;
    case "unregistered": return `${note.fqdn.split(".")[0]} no longer registered`;
    case "addresses": return note.addresses.length ? `has ${note.addresses.join(", ")}` : "has no address";
    case "query": return `application asks ${note.name}`;
    case "answer": return note.vip ? `application gets ${note.vip}` : `application gets ${note.error}`;
    case "directed": return `directs ${note.route}${note.relay ? ` via ${note.relay.split(".")[0]}` : ""}`;
    case "path-changed": return note.route === "none" ? "no way" : `path: ${note.route}`;
    case "relay-table": return `table: ${note.change.kind ?? note.change} ${note.mode}`;
    case "left": case "joined": case "link-up": return `${note.what} ${note.interface}`;
    case "flow-started": return `flow ${note.flow} starts`;
    case "flow-ended": return `flow ${note.flow} ends`;
    case "refused": return `refused: ${note.field}`;
    case "gave-up": return `gave up ${spell(note.message)}`;
    default: return note.what;
  }
}

// Of what happened at one moment, the cause comes first.
const cause = ({ note }) => note && ["directed", "query", "addresses", "joined"].includes(note.what) ? 1 : 0;

function ladder() {
  if (!MESSAGES.length && !NOTES.length) return [absent("No message was traced in this run.")];
  const items = [...MESSAGES.map((message, n) => ({ at: message.at, message, id: `m${n}` })), ...NOTES.map((note, n) => ({ at: note.at, note, id: `n${n}` }))]
    .sort((a, b) => a.at - b.at || cause(b) - cause(a));
  const byId = new Map(items.map(item => [item.id, item]));
  const filter = { alive: false, dns: true, notes: true, hidden: new Set(), text: "" };
  const place = name => LIVES.indexOf(name);
  const middle = column => `calc(var(--time) + ${column + .5} * var(--col))`;
  const rows = h("ol", { class: "rows" });
  const count = h("span", { class: "quiet", role: "status" });
  const box = h("div", { class: "ladder", tabindex: "0", role: "region", "aria-label": "Message ladder" }, h("div", { class: "inner" },
    h("div", { class: "names" }, h("span", {}, "time"), LIVES.map(name => h("span", {}, name, h("small", {}, ROLES.get(name) ?? ""))), h("span", { class: "clauses" }, "clauses")), rows));

  function describe({ at, message, note }) {
    if (note) return `${shownTime(at)}: ${note.node} ${inWords(note)}`;
    const fate = message.begin === null ? "came from outside the trace" : message.end === null ? "not taken" : `after ${shownTime(message.end - message.begin)}`;
    return `${shownTime(at)}: ${spell(message.kind)} from ${message.from ?? message.addresses[0]} to ${message.to ?? message.addresses[1]}, ${fate}`;
  }
  function arrow(message) {
    let [from, to] = [place(message.from), place(message.to)];
    const lost = message.begin === null || message.end === null;
    // Who is no node of the ladder stands half a column away.
    if (from < 0) from = to > 0 ? to - .5 : to + .5;
    if (to < 0) to = from + .5;
    const tag = message.attempt > 1 ? ` (${message.attempt}.)` : "";
    const kinds = ["arrow", from <= to ? "right" : "left", lost && "lost", message.alive && "alive", message.kind.startsWith("DNS") && "dns"].filter(Boolean).join(" ");
    const left = Math.min(from, to), wide = Math.max(Math.abs(to - from), .1);
    return h("span", { class: kinds, style: `left: ${middle(left)}; width: calc(${wide} * var(--col))` }, h("span", {}, `${spell(message.kind)}${tag}${lost ? " ✕" : ""}`));
  }
  function mark(note) {
    const kind = ["refused", "gave-up", "left", "unregistered"].includes(note.what) || note.route === "none" ? "at bad" : ["path-changed", "joined"].includes(note.what) ? "at good" : "at";
    const column = place(note.node), edge = column === 0 ? " first" : column === LIVES.length - 1 ? " last" : column < 0 ? " outside" : "";
    return h("span", { class: kind + edge, style: column < 0 ? "left: calc(var(--time) + 4rem)" : `left: ${middle(column)}` }, column < 0 ? `${note.node}: ${inWords(note)}` : inWords(note));
  }
  function rowOf(item) {
    const { at, message, note, id } = item;
    const button = h("button", { class: "row", type: "button", "aria-expanded": "false", "aria-label": describe(item), onclick: () => { clock.set(at); open(item); } },
      h("span", { class: "t" }, shownTime(at)), message ? arrow(message) : mark(note), message && h("span", { class: "ids" }, message.clauses.join(" ")));
    return h("li", { id }, button);
  }
  function values(fields) {
    return h("dl", {}, Object.entries(fields).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) =>
      [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, value && typeof value === "object" && !Array.isArray(value) ? values(value)
        : Array.isArray(value) && value.some(one => one && typeof one === "object") ? value.map(one => h("div", {}, shown(one))) : h("span", { class: "mono" }, shown(value)))]));
  }
  const clauseList = ids => h("ul", {}, ids.map(id => h("li", {}, h("strong", {}, id), DATA.clauses?.[id] ? `: ${DATA.clauses[id]}` : "")));
  function details({ message, note }) {
    if (note) {
      const { at, t, node, what, ...rest } = note;
      return h("div", { class: "more" }, h("h3", {}, `${node}: ${what}`), values({ time: shownTime(at), ...rest }));
    }
    const [seen, sent] = message.addresses;
    const facts = {
      from: [message.from, seen && `seen as ${seen}`].filter(Boolean).join(", "), to: [message.to, sent && `sent to ${sent}`].filter(Boolean).join(", "),
      sent: message.begin === null ? "not in the trace" : shownTime(message.begin),
      taken: message.end === null ? "never: lost, refused, or still under way" : `${shownTime(message.end)}${message.begin === null ? "" : `, ${shownTime(message.end - message.begin)} later`}`,
      sequence: message.seq, path: message.path, attempt: message.attempt > 1 ? message.attempt : null, figure: message.figure,
    };
    return h("div", { class: "more" }, h("div", { class: "pair" },
      h("div", {}, h("h3", {}, spell(message.kind)), values(facts)),
      h("div", {}, h("h3", {}, "What it says"), Object.keys(message.fields).length ? h("div", { class: "fields" }, values(message.fields)) : absent("The trace does not hold its body."),
        h("p", { class: "quiet" }, "Keys are never in the trace.")),
      h("div", {}, h("h3", {}, "Clauses"), message.clauses.length ? clauseList(message.clauses) : absent("The thesis does not name this message."))));
  }
  function open(item, stay) {
    const row = document.getElementById(item.id);
    if (!row) return;
    const button = row.querySelector(".row"), shownNow = row.querySelector(".more");
    if (shownNow && !stay) { shownNow.remove(); button.setAttribute("aria-expanded", "false"); return; }
    if (shownNow) return;
    for (const other of rows.querySelectorAll(".more")) { other.parentElement.querySelector(".row").setAttribute("aria-expanded", "false"); other.remove(); }
    row.append(details(item));
    button.setAttribute("aria-expanded", "true");
    history.replaceState(null, "", `#${item.id}`);
  }

  // Rows are made as they are scrolled to, so that thousands do not slow the page.
  const STEP = 400;
  let wanted = [], made = 0;
  const rest = h("li", { class: "rest", "aria-hidden": "true" });
  function makeUntil(end) {
    const part = wanted.slice(made, end);
    made += part.length;
    rest.before(...part.map(rowOf));
    rest.style.height = `${Math.max(0, wanted.length - made) * 28}px`;
  }
  new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && made < wanted.length) makeUntil(made + STEP); }, { root: box, rootMargin: "600px" }).observe(rest);
  function keep({ at, message, note }) {
    if (at < clock.window[0] || at > clock.window[1]) return false;
    if (note && !filter.notes) return false;
    if (message && ((message.alive && !filter.alive) || (message.kind.startsWith("DNS") && !filter.dns))) return false;
    const nodes = message ? [message.from, message.to] : [note.node];
    if (nodes.every(name => !name || filter.hidden.has(name))) return false;
    return !filter.text || JSON.stringify(message ?? note).toLowerCase().includes(filter.text) || (message && spell(message.kind).toLowerCase().includes(filter.text));
  }
  function show() {
    wanted = items.filter(keep);
    made = 0;
    rows.replaceChildren(rest);
    makeUntil(STEP);
    const messages = wanted.filter(item => item.message).length;
    count.textContent = `${messages} of ${MESSAGES.length} messages${DATA.ladder.omitted ? `; ${DATA.ladder.omitted} more are in events.jsonl` : ""}`;
    follow();
  }
  // The row of the moment: the last at or before it.
  let current = null;
  function follow(scroll) {
    const at = hovering ?? clock.now;
    const index = wanted.findLastIndex(item => item.at <= at + 1e-6);
    if (index >= made && scroll) makeUntil(index + STEP);
    const row = index >= 0 ? document.getElementById(wanted[index].id) : null;
    if (current !== row) { current?.classList.remove("current"); row?.classList.add("current"); current = row; }
    if (row && scroll) box.scrollTop = row.offsetTop - box.clientHeight / 3;
  }
  const check = (label, key) => h("label", {}, h("input", { type: "checkbox", checked: filter[key], onchange: event => { filter[key] = event.target.checked; show(); } }), ` ${label}`);
  const bound = n => h("input", { type: "number", step: "any", "aria-label": n ? "to, ms" : "from, ms", onchange: event => {
    const window = [...clock.window];
    window[n] = +event.target.value;
    clock.zoom(...window);
  } });
  const bounds = [bound(0), bound(1)];
  const setBounds = () => bounds.forEach((input, n) => { input.value = +clock.window[n].toFixed(2); });
  const filters = h("fieldset", { class: "filters" },
    check("keep-alives", "alive"), check("DNS", "dns"), check("what nodes did", "notes"),
    h("span", {}, "nodes: ", LIVES.map(name => h("label", {}, h("input", { type: "checkbox", checked: true, onchange: event => { filter.hidden[event.target.checked ? "delete" : "add"](name); show(); } }), `${name} `))),
    h("span", {}, bounds[0], " to ", bounds[1], " ms ", h("button", { type: "button", onclick: () => clock.zoom(...SPAN) }, "all")),
    h("input", { type: "search", placeholder: "find in messages", "aria-label": "find in messages", oninput: event => { filter.text = event.target.value.toLowerCase(); show(); } }), count);

  rows.addEventListener("keydown", event => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("li")?.[step]?.querySelector(".row");
    if (next) { event.preventDefault(); next.focus(); }
  });
  let width = null;
  clock.watch(what => {
    if (what === "now") follow(!rows.contains(document.activeElement));
    if (what === "hover") follow(hovering !== null);
    if (what === "window") { setBounds(); clearTimeout(width); width = setTimeout(show, 80); }
  });
  // As wide as there is room for, with some for the clauses.
  const columns = () => {
    const room = box.clientWidth - (box.clientWidth > 640 ? 280 : 80);
    box.style.setProperty("--lives", LIVES.length);
    box.style.setProperty("--col", `${Math.min(230, Math.max(box.clientWidth > 640 ? 120 : 84, Math.floor(room / LIVES.length)))}px`);
  };
  addEventListener("resize", columns);
  setBounds();
  requestAnimationFrame(() => {
    columns();
    show();
    const asked = byId.get(location.hash.slice(1));
    if (asked) {
      if (asked.message?.alive) { filter.alive = true; filters.querySelector("input").checked = true; show(); }
      makeUntil(wanted.indexOf(asked) + STEP);
      clock.set(asked.at);
      open(asked, true);
      document.getElementById(asked.id)?.scrollIntoView({ block: "center" });
    }
  });
  addEventListener("beforeprint", () => makeUntil(Math.min(wanted.length, 2 * STEP)));
  return [h("p", { class: "quiet only-screen" }, "Click a message for what it says. A dashed arrow was sent and never taken."), filters, box];
}
