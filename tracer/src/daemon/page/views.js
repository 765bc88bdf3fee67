// What each view shows of the latest answers. Views make new elements; the page fits them in.

import { area, code, h, icicle, spark } from "./draw.js";
import * as w from "./words.js";

/** Verdicts have a sign and a word, so that they need no colour. */
const VERDICTS = { leak: ["▲", "Leak"], clean: ["●", "Clean"], inconclusive: ["◆", "Inconclusive"] };
/** Stacks drawn side by side; the rest is one cell. */
const STACKS_MOST = 24;
/** Frames drawn of one stack, from the innermost on. */
const FRAMES_MOST = 12;

const sum = (list, value) => list.reduce((all, one) => all + value(one), 0);
const list = (texts, name) => texts.length > 0 && h("ul", { class: name }, texts.map((text) => h("li", {}, text)));
const section = (title, ...content) => h("section", {}, h("h2", {}, title), content);
const confidence = (level) => h("span", { class: `badge ${level}` }, `${level} confidence`);
/** Labels and what stands beside them; lines without a value are left out. */
const facts = (...lines) =>
  h("dl", { class: "facts" }, lines.filter(([, value]) => value).map(([label, ...value]) =>
    h("div", {}, h("dt", {}, label), h("dd", {}, value))));

/** Whether every word of the filter is in one of the texts. */
function matches(filter, ...texts) {
  const all = texts.filter((text) => text != null).join("\n").toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

function filterField(state, shown, all, noun) {
  return h("div", { class: "filter", role: "search" },
    h("label", { for: "filter" }, "Filter"),
    h("input", { id: "filter", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "function, file, host, process …" }),
    h("span", { class: "dim", role: "status" }, state.filter ? `${shown} of ${w.counted(all, noun)}` : w.counted(all, noun)));
}

/** A table with roles said, because narrow screens show its rows as cards. */
function table(name, columns, rows, sort) {
  const header = columns.map(({ title, key, number }) => {
    const order = key && sort?.key === key ? (sort.down ? "descending" : "ascending") : key && sort ? "none" : null;
    const arrow = { descending: " ↓", ascending: " ↑" }[order] ?? "";
    const label = sort && key ? h("button", { type: "button", "data-do": "sort", "data-sort": key }, title, h("span", { "aria-hidden": "true" }, arrow)) : title;
    return h("th", { scope: "col", role: "columnheader", class: number && "number", "aria-sort": order }, label);
  });
  const line = (row) => h("tr", { role: "row", "data-key": row.key, class: row.class, "data-open": row.open },
    columns.map((column) => h("td", { role: "cell", class: column.number && "number", "data-label": column.title }, column.of(row.value))));
  return h("table", { role: "table", "aria-label": name },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, header)),
    h("tbody", { role: "rowgroup" }, rows.map(line)));
}

const LEAKS = [
  { title: "Trend", of: (f) => spark(f.points) ?? h("span", { class: "dim" }, "–") },
  { title: "Where", key: "site", by: (f) => w.site(f).name, of: (f) => {
    const site = w.site(f);
    return h("div", {}, h("a", { class: "code", href: `#finding/${encodeURIComponent(f.id)}` }, code(site.name)), h("div", { class: "dim code" }, code(site.place)));
  } },
  { title: "To", key: "remote", by: w.remote, of: (f) => h("span", { class: "code" }, code(w.remote(f))) },
  { title: "Kind", key: "kind", by: (f) => f.kind, of: (f) => h("div", {}, w.kind(f.kind), h("div", { class: "dim" }, `${f.confidence} confidence`)) },
  { title: "Outlived", key: "leaked", number: true, by: (f) => f.connections.outlived, of: (f) =>
    h("div", {}, h("b", {}, w.count(f.connections.outlived)), h("div", { class: "dim" }, `of ${w.count(f.connections.open)} open`)) },
  { title: "Per minute", key: "rate", number: true, by: (f) => f.growth_per_minute, of: (f) => w.perMinute(f.growth_per_minute) },
  { title: "Process", key: "process", by: (f) => f.process.comm, of: (f) =>
    h("div", {}, f.process.comm, h("div", { class: "dim pid" }, `pid ${f.process.pid}${f.instances.length > 1 ? ` and ${f.instances.length - 1} more` : ""}`)) },
];

/** The verdict with its reasons, and what it rests on. */
function verdict({ report, overview }) {
  const [sign, word] = VERDICTS[report.verdict] ?? ["", report.verdict];
  const coverage = report.coverage;
  const reasons = [...new Set([...report.inconclusive_because, ...(report.unsettled ?? [])])];
  const healthy = report.populations.length;
  return h("section", { class: `verdict ${report.verdict}` },
    h("h1", { tabindex: "-1" }, h("span", { class: "sign", "aria-hidden": "true" }, sign), `${word}: ${w.counted(report.findings.length, "finding")}`),
    h("p", {}, `Watched for ${w.duration(report.duration_seconds)}: ${overview.watched}. `,
      healthy > 0 && h("a", { href: "#populations" }, `${w.counted(healthy, "population")} of connections ${healthy === 1 ? "is" : "are"} no leak`),
      healthy > 0 && ". ",
      coverage?.degraded.length > 0 && h("a", { href: "#node" }, `${w.counted(coverage.degraded.length, "limit")} of what can be seen here`)),
    list(reasons, "reasons"),
    report.settle_seconds != null && h("p", {}, `Watching ${w.duration(report.settle_seconds)} longer would settle it.`));
}

function figures({ report }) {
  const limits = report.findings.map((f) => w.limit(f, report.resources)).filter(Boolean).sort((a, b) => a[0] - b[0]);
  const figure = (value, label) => h("div", {}, h("dd", {}, value), h("dt", {}, label));
  return h("dl", { class: "figures" },
    figure(w.count(sum(report.findings, (f) => f.connections.outlived)), "connections outlived"),
    figure(w.perMinute(sum(report.findings, (f) => f.growth_per_minute)), "more each minute"),
    figure(w.count(report.coverage?.sockets_tracked ?? 0), "sockets tracked"),
    figure(limits.length ? (limits[0][0] ? w.duration(limits[0][0]) : "now") : "–", limits.length ? `until ${limits[0][1].split(" (")[0]} run out` : "no limit in sight"));
}

/** The findings' stacks and the healthy populations as one tree, merged from the process inwards. */
function tree({ report }) {
  const root = { name: "", open: 0, mark: "root", children: [] };
  const add = (way, open, link) => {
    let node = root;
    root.open += open;
    for (const { name, mark } of way) {
      let next = node.children.find((child) => child.name === name && child.mark === mark);
      if (!next) node.children.push((next = { name, mark, open: 0, children: [] }));
      next.open += open;
      node = next;
    }
    node.link ??= link;
  };
  const all = [
    ...report.findings.map((f) => {
      const stack = w.folded(f.stack, f.call_site).slice(0, FRAMES_MOST).reverse();
      const at = stack.findIndex((one) => one.blamed);
      // what the line to blame calls is not what there is to change
      const frames = (at < 0 ? stack : stack.slice(0, at + 1)).map((one) => one.folded
        ? { name: w.foldText(one), mark: "fold" }
        : { name: `${one.frame.function} ${one.blamed ? w.place(one.frame) : ""}`.trim(), mark: one.blamed ? "site" : "own" });
      if (!frames.length || at < 0) frames.push({ name: w.site(f).name, mark: "site" });
      return { open: f.connections.open, link: `#finding/${encodeURIComponent(f.id)}`, way: [{ name: f.process.comm, mark: "own" }, ...frames] };
    }),
    ...report.populations.map((p) => ({ open: p.open, way: [{ name: p.comm, mark: "own" }, { name: p.call_site?.function ?? p.remote, mark: "well" }] })),
  ].filter((one) => one.open > 0).sort((a, b) => b.open - a.open);
  for (const { way, open, link } of all.slice(0, STACKS_MOST)) add(way, open, link);
  const rest = sum(all.slice(STACKS_MOST), (one) => one.open);
  if (rest) add([{ name: `${all.length - STACKS_MOST} more`, mark: "fold" }], rest);
  root.name = `all ${w.count(root.open)}`;
  return root;
}

function byStack(state) {
  const root = tree(state);
  if (!root.open) return null;
  return section("Open connections by stack",
    h("p", { class: "dim" }, "Each row is a call further in, each width a number of connections. ",
      h("span", { class: "key site" }, "▸ leaks here"), " ", h("span", { class: "key own" }, "on the way"), " ",
      h("span", { class: "key fold" }, "libraries"), " ", h("span", { class: "key well" }, "✓ no leak")),
    icicle(root, `${w.counted(root.open, "open connection")} by stack; links lead to findings`, w));
}

export function leaks(state) {
  const { report, overview, sort, filter } = state;
  const points = new Map(overview.timelines.map((one) => [one.id, one.points]));
  const all = report.findings.map((f) => ({ ...f, points: points.get(f.id) }));
  const shown = all.filter((f) => matches(filter, f.id, w.kind(f.kind), f.kind, w.site(f).name, f.call_site?.file, w.remote(f), f.remote.address, f.process.comm, f.process.pid, f.process.pod, f.process.namespace));
  const by = LEAKS.find(({ key }) => key === sort.key)?.by;
  if (by) shown.sort((a, b) => ((x, y) => (x < y ? -1 : x > y ? 1 : 0))(by(a), by(b)) * (sort.down ? -1 : 1));
  const rows = shown.map((f) => ({ key: f.id, open: `#finding/${encodeURIComponent(f.id)}`, value: f }));
  return [
    verdict(state),
    figures(state),
    section("Top leakers",
      all.length === 0 && h("p", { class: "empty" }, "No finding. An open connection alone is never evidence: ", h("a", { href: "#populations" }, "what was watched, and why it is no leak"), "."),
      all.length > 0 && filterField(state, shown.length, all.length, "finding"),
      all.length > 0 && shown.length === 0 && h("p", { class: "empty" }, "No finding matches the filter; Esc clears it."),
      shown.length > 0 && table("Top leakers", LEAKS, rows, sort),
      report.ignored > 0 && h("p", { class: "dim" }, `${w.counted(report.ignored, "finding")} hidden by the configuration's ignore list.`)),
    byStack(state),
    report.resolved?.length > 0 && section("Over",
      h("ul", { class: "plain" }, report.resolved.map((f) => h("li", { "data-key": f.id },
        h("a", { class: "code", href: `#finding/${encodeURIComponent(f.id)}` }, w.site(f).name), ` ${w.kind(f.kind)}, ${w.moment(f.resolved_at)}: ${f.resolved_because ?? ""}`)))),
  ];
}

function history({ timeline }) {
  if (!timeline.length) return null;
  const [first, last] = [timeline[0], timeline.at(-1)];
  const label = `From ${w.clock(first.at)} to ${w.clock(last.at)}: open from ${first.open} to ${last.open}, outlived from ${first.outlived} to ${last.outlived}`;
  return section("Over time",
    h("p", { class: "dim" }, h("span", { class: "key line" }, `outlived, now ${w.count(last.outlived)}`), " ", h("span", { class: "key open" }, `open, now ${w.count(last.open)}`)),
    area(timeline, label, w),
    h("details", {}, h("summary", {}, "As a table"),
      table("Connections over time", [
        { title: "Time", of: (point) => w.clock(point.at) },
        { title: "Open", number: true, of: (point) => w.count(point.open) },
        { title: "Outlived", number: true, of: (point) => w.count(point.outlived) },
      ], timeline.map((point) => ({ key: point.at, value: point })))));
}

function frames(stack, blamed, all, whole = stack) {
  return h("ol", { class: "stack" }, w.folded(stack, blamed, all, whole).map((one) => one.folded
    ? h("li", { class: "fold" }, w.foldText(one))
    : h("li", { class: one.blamed ? "blamed" : one.frame.owner ?? "own" },
      h("span", {}, one.blamed && "▸ ", code(one.frame.function), one.frame.inlined && " (inlined)"), " ",
      h("span", { class: "dim", title: one.frame.file ?? one.frame.module }, code(w.place(one.frame))))));
}

function stacks(finding, all) {
  const { stack, opener_stack: opener = [] } = finding;
  const titles = { request: "Stack of the latest request", connect: "Stack that connected", accept: "Stack that accepted", first_io: "Stack of the first transfer" };
  // side by side from where they part
  let shared = 0;
  while (shared < opener.length && JSON.stringify(opener.at(-1 - shared)) === JSON.stringify(stack.at(-1 - shared))) shared += 1;
  const of = (whole) => whole.slice(0, whole.length - shared);
  if (!stack.length) return section("Stack", h("p", {}, "No stack was seen."));
  const site = finding.call_site;
  return section(titles[finding.stack_of] ?? "Stack",
    h("label", { class: "check" }, h("input", { type: "checkbox", id: "frames", checked: all }), "all frames, the runtime's too"),
    finding.stack_quality === "truncated" && h("p", { class: "dim" }, "It is cut off: its outer frames are not known."),
    of(opener).length === 0 && frames(stack, site, all),
    of(opener).length > 0 && [
      h("div", { class: "parted" },
        h("div", {}, h("h3", {}, "This"), frames(of(stack), site, all, stack)),
        h("div", {}, h("h3", {}, "What opened the connection"), frames(of(opener), null, all, opener))),
      shared > 0 && [h("h3", {}, "Both from"), frames(stack.slice(stack.length - shared), site, all, stack)],
    ]);
}

/** Not of connections from before the watch, whose requests nobody counted. */
const perRequest = ({ requests, connections, leaked_per_request: share }) =>
  requests > 0 && connections.outlived <= requests ? `, ${w.number(share)} for each request` : "";

export function finding(state) {
  const { detail, report, now } = state;
  const f = detail.finding;
  const site = w.site(f);
  const { connections: c, process } = f;
  const limit = w.limit(f, report.resources);
  const life = { new: "new: found less than a minute ago", growing: "growing", steady: "steady: what there is stays, and no more comes", resolved: `over since ${w.moment(f.resolved_at)}: ${f.resolved_because ?? ""}`, back: "back: it was over before" };
  const responses = (f.responses ?? []).map(({ status, leaked, of }) => `${w.count(leaked)} of ${w.count(of)} answered ${status}`).join(", ");
  return [
    h("p", { class: "back" }, h("a", { href: "#leaks" }, "← All leaks")),
    h("section", { class: "finding" },
      h("h1", { tabindex: "-1" }, w.kind(f.kind), " ", confidence(f.confidence)),
      h("p", {}, `${w.meaning(f.kind)}${f.also.length ? `; also: ${f.also.map(w.kind).join(", ")}` : ""}`),
      facts(
        ["at", h("b", { class: "code" }, code(site.name)), " ", h("span", { class: "code dim" }, code(site.place))],
        ["library", f.call_site && f.library && `${f.library.name}: ${f.library.frame.function} ${w.place(f.library.frame)}`],
        ["to", h("b", { class: "code" }, code(w.remote(f))), " ", h("span", { class: "dim" }, `${f.remote.address}${f.remote.peer ? ` (${w.process(f.remote.peer)})` : ""}`)],
        ["by", `${w.process(process)}${process.runtime ? `, ${process.runtime}` : ""}${process.pod ? `, pod ${process.namespace ?? ""}/${process.pod}` : ""}`],
        ["count", `${w.count(c.outlived)} outlived of ${w.count(c.open)} open; ${w.count(c.opened)} opened, ${w.count(c.closed)} closed`],
        ["growth", `${w.perMinute(f.growth_per_minute)} a minute${perRequest(f)}${f.oldest_opened_at ? `, the oldest ${w.duration(w.since(f.oldest_opened_at, now))} old` : ""}`],
        ["until", limit && w.limitText(limit)],
        ["life", life[f.state]],
        ["answers", responses],
        ["id", h("span", { class: "code" }, f.id)])),
    h("div", { class: "columns" },
      section("Why we believe it", list([...f.evidence, ...(f.go?.notes ?? [])], "reasons")),
      section("What to change", h("p", {}, f.advice), f.snippet && h("pre", {}, h("code", {}, f.snippet)))),
    history(detail),
    stacks(f, state.allFrames),
    f.called_by?.length > 1 && section("Called by", h("ul", { class: "plain" }, f.called_by.map((one) =>
      h("li", {}, h("b", {}, w.count(one.count)), " ", h("span", { class: "code" }, one.function), " ", h("span", { class: "code dim" }, w.place(one)))))),
    f.remote.examples.length > 0 && section("Requests", h("p", { class: "dim" }, "Without the values of their queries."), list(f.remote.examples, "plain code")),
    f.instances.length > 1 && section("Instances", table("Instances", [
      { title: "Process", of: (one) => `pid ${one.pid}${one.node ? ` on ${one.node}` : ""}` },
      { title: "Open", number: true, of: (one) => w.count(one.connections) },
      { title: "First seen", of: (one) => w.moment(one.first_seen_at) },
    ], f.instances.map((one) => ({ key: `${one.node} ${one.pid}`, value: one })))),
  ];
}

const POPULATIONS = [
  { title: "Where", of: (p) => h("div", {}, h("span", { class: "code" }, code(p.call_site?.function ?? "call site unknown")), h("div", { class: "dim code" }, p.call_site && code(w.place(p.call_site)))) },
  { title: "Remote", of: (p) => h("div", {}, h("span", { class: "code" }, code(p.remote)), h("div", { class: "dim" }, p.role)) },
  { title: "Why it is no leak", of: (p) => p.healthy_because },
  { title: "Open", number: true, of: (p) => w.count(p.open) },
  { title: "Used again", number: true, of: (p) => w.count(p.reused) },
  { title: "Opened", number: true, of: (p) => w.count(p.opened) },
  { title: "Closed", number: true, of: (p) => w.count(p.closed) },
  { title: "Process", of: (p) => h("div", {}, p.comm, h("div", { class: "dim pid" }, `pid ${p.pid}`)) },
];

export function populations(state) {
  const { report, filter } = state;
  const all = report.populations;
  const shown = all.filter((p) => matches(filter, p.call_site?.function, p.call_site?.file, p.remote, p.comm, p.pid, p.role, p.healthy_because));
  return [
    h("h1", { tabindex: "-1" }, "Populations"),
    h("p", {}, "Connections that were watched together and are no leak, with the reason."),
    all.length === 0 && h("p", { class: "empty" }, "None so far."),
    all.length > 0 && filterField(state, shown.length, all.length, "population"),
    all.length > 0 && shown.length === 0 && h("p", { class: "empty" }, "No population matches the filter; Esc clears it."),
    shown.length > 0 && table("Populations", POPULATIONS, shown.map((p) => ({ key: [p.pid, p.call_site?.function, p.call_site?.line, p.remote, p.role].join(" "), value: p }))),
  ];
}

/** What can be seen on this node, and the limits of the processes. */
export function node({ report, overview, hasToken }) {
  const coverage = report.coverage;
  const losses = Object.entries(coverage?.losses ?? {}).filter(([, number]) => number > 0);
  const ports = report.resources.flatMap((one) => one.ephemeral_ports.map((port) => ({ ...port, pid: one.pid })));
  const errors = report.resources.flatMap((one) => Object.entries(one.connect_errors).map(([name, number]) => `pid ${one.pid}: ${w.count(number)} × ${name}`));
  const names = new Map([...report.populations, ...report.findings.map((f) => f.process)].map((one) => [one.pid, one.comm]));
  const who = ({ pid }) => (names.has(pid) ? w.process({ comm: names.get(pid), pid }) : `pid ${pid}`);
  const left = (one) => (one.exhausted_in_seconds == null ? "–" : one.exhausted_in_seconds === 0 ? "now" : w.duration(one.exhausted_in_seconds));
  return [
    h("section", {}, h("h1", { tabindex: "-1" }, overview.host), facts(
      ["watched", overview.watched],
      ["since", `${w.moment(report.started_at)}, ${w.duration(report.duration_seconds)} ago`],
      ["tracer", overview.version],
      ["seen by", coverage && `${coverage.backend.replaceAll("_", " ")}, the weakest hook in use`],
      ["sockets", coverage && `${w.count(coverage.sockets_tracked)} tracked, ${w.count(coverage.sockets_seen)} seen, ${w.count(coverage.sockets_unattributed)} without owner or stack`],
      ["lost", coverage && `${w.counted(coverage.lost_events, "event")} not made up for`])),
    section("What is not seen here", coverage?.degraded.length ? list(coverage.degraded, "reasons") : h("p", {}, "Nothing is known to be missing.")),
    losses.length > 0 && section("Losses by cause, made up for or not", list(losses.map(([name, number]) => `${name.replaceAll("_", " ")}: ${w.count(number)}`), "plain")),
    report.resources.length > 0 && section("Descriptors", table("Descriptors", [
      { title: "Process", of: who },
      { title: "Used", number: true, of: (one) => w.count(one.fds_open) },
      { title: "Limit", number: true, of: (one) => w.count(one.fds_limit) },
      { title: "Share", of: (one) => h("meter", { min: 0, max: one.fds_limit, value: one.fds_open, "aria-label": `descriptors of ${who(one)}` }) },
      { title: "Run out in", number: true, of: left },
    ], report.resources.map((one) => ({ key: one.pid, value: one })))),
    ports.length > 0 && section("Local ports", table("Local ports", [
      { title: "Destination", of: (one) => h("span", { class: "code" }, one.destination) },
      { title: "Process", of: who },
      { title: "Used", number: true, of: (one) => w.count(one.used) },
      { title: "Available", number: true, of: (one) => w.count(one.available) },
      { title: "Run out in", number: true, of: left },
    ], ports.map((one) => ({ key: `${one.pid} ${one.destination}`, value: one })))),
    errors.length > 0 && section("Connects that failed", list(errors, "plain")),
    coverage && section("Events, and what they are seen by", h("ul", { class: "plain hooks" }, Object.entries(coverage.hooks).map(([name, backend]) =>
      h("li", {}, name.replaceAll("_", " "), " ", h("span", { class: "dim" }, backend.replaceAll("_", " ")))))),
    hasToken && h("p", {}, h("button", { type: "button", "data-do": "forget" }, "Forget the token")),
  ];
}

/** Asks for the token; `refused` is what the daemon said. */
export function prompt({ refused, hasToken }) {
  if (refused.tokens === "none") {
    return [h("section", { class: "prompt" }, h("h1", { tabindex: "-1" }, "This daemon shows nothing over TCP"), h("p", {}, refused.message), retry())];
  }
  return [h("form", { class: "prompt", "data-do": "token" },
    h("h1", { tabindex: "-1" }, "Token"),
    h("p", { id: "why" }, "The daemon shows what it knows to whoever has one of the tokens in its token file. It is kept in this tab only."),
    hasToken && h("p", { class: "wrong", role: "alert", id: "wrong" }, "The daemon does not know this token."),
    h("label", { for: "token" }, "Token"),
    h("input", { id: "token", type: "password", autocomplete: "off", required: true, "aria-invalid": hasToken && "true", "aria-describedby": hasToken ? "wrong" : "why" }),
    h("button", { type: "submit" }, "Show"))];
}

export function trouble(title, message) {
  return [h("section", { class: "prompt" }, h("h1", { tabindex: "-1" }, title), h("p", {}, message), retry())];
}

const retry = () => h("p", {}, h("button", { type: "button", "data-do": "ask" }, "Ask now"), " ", h("a", { href: "#leaks" }, "All leaks"));
