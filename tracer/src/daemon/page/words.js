// Numbers, times and names as the other commands write them.

/** What each kind of leak is; a kind that is not here has only its name. */
const KINDS = {
  response_body_not_closed: "the response came; its body was neither finished nor closed",
  response_not_read: "unread response bytes sit in the socket and nobody reads any more",
  client_per_request: "a new client or pool for each call: its connections are never used again",
  stream_never_cancelled: "streams keep being opened and none of the earlier ones is ended",
  close_wait: "the peer closed or reset, this side never closed",
  accepted_never_closed: "a server accepted it and never closed it",
  inherited_fd: "the opener closed it or is gone; another process still holds the descriptor",
  pool_unbounded: "a pool whose connections are used again, but that only grows",
  never_closed: "opened, never closed, and growing",
};

export const kind = (name) => name.replaceAll("_", " ");
export const meaning = (name) => KINDS[name] ?? "";

const grouped = new Intl.NumberFormat("en");
export const count = (number) => grouped.format(number);
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : noun.endsWith("ss") ? "es" : "s"}`;

export function number(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return count(Math.round(value));
  return value.toFixed(size >= 10 ? 1 : 2);
}

export const perMinute = (value) => (value > 0 ? "+" : "") + number(value);

/** In at most two units: `4.2s`, `75s`, `12m 30s`, `3h 5m`, `2d 4h`. */
export function duration(seconds) {
  if (!Number.isFinite(seconds) || seconds < 0) return "?";
  const pair = (big, unit, small, rest) => {
    const part = Math.floor((seconds % big) / small);
    return `${Math.floor(seconds / big)}${unit}${part ? ` ${part}${rest}` : ""}`;
  };
  if (seconds < 119.5) return `${Math.round(seconds)}s`;
  if (seconds < 3600) return pair(60, "m", 1, "s");
  if (seconds < 86400) return pair(3600, "h", 60, "m");
  return pair(86400, "d", 3600, "h");
}

export const since = (time, now) => (now - Date.parse(time)) / 1000;

const two = (n) => String(n).padStart(2, "0");
/** Local time of day. */
export function clock(time) {
  const date = new Date(time);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
/** Local date and time. */
export function moment(time) {
  const date = new Date(time);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(time)}`;
}

/** The file and two folders. */
export function shortPath(path) {
  const parts = path.split("/");
  return parts.length > 4 ? parts.slice(-3).join("/") : path;
}

/** `main.go:24`, as far as it is known. */
export function place({ file, line, module }) {
  if (file) return shortPath(file) + (line ? `:${line}` : "");
  return module ? `in ${shortPath(module)}` : "";
}

/** Names what leaks: the call site, else the library, else what is missing. */
export function site(finding) {
  if (finding.call_site) return { name: finding.call_site.function, place: place(finding.call_site), known: true };
  if (finding.library) {
    return { name: finding.library.name, place: `${finding.library.frame.function} ${place(finding.library.frame)}`, known: true };
  }
  const missing = finding.stack_quality === "none" ? "no stack was seen" : "no frame of the application";
  return { name: "call site unknown", place: missing, known: false };
}

export function remote(finding) {
  const { url, host, path, address } = finding.remote;
  return url ?? host ?? (path ? `unix:${path}` : finding.local ? `listening on ${finding.local}` : address);
}

export const process = (one) => `${one.comm}, pid ${one.pid}`;

/** When something runs out at the present growth: `[seconds, what]`, or nothing. */
export function limit(finding, resources) {
  const pids = new Set([finding.process.pid, ...finding.instances.map((one) => one.pid)]);
  const all = [];
  for (const one of resources.filter((one) => pids.has(one.pid))) {
    if (one.exhausted_in_seconds != null) {
      all.push([one.exhausted_in_seconds, `descriptors (${count(one.fds_open)} of ${count(one.fds_limit)} used)`]);
    }
    for (const ports of one.ephemeral_ports) {
      if (ports.destination === finding.remote.address && ports.exhausted_in_seconds != null) {
        all.push([ports.exhausted_in_seconds, `local ports (${count(ports.used)} of ${count(ports.available)} used)`]);
      }
    }
  }
  return all.sort((a, b) => a[0] - b[0])[0];
}

export function limitText([seconds, what]) {
  return seconds === 0 ? `now: no ${what} left` : `${what} run out in ${duration(seconds)} at this growth`;
}

/** What a library is called: the package that its file is in, else the file of its code. */
function library({ file, module }) {
  const within = /.*\/(?:site-packages|dist-packages|node_modules|gems|registry\/src\/[^/]+)\/([^/]+)/.exec(file ?? "");
  return (within?.[1] ?? (module ?? "").split("/").pop()).replace(/\.py$/, "");
}

const own = (frame) => frame.owner === "own" || frame.owner == null;

/**
 * A stack as people read it, innermost first: own frames, libraries folded into `{ folded, names }`,
 * the runtime's left out. The frame that is to blame is always there. Where there is nothing of its
 * own in the whole, libraries are all there is to see.
 */
export function folded(frames, blamed, all = false, whole = frames) {
  const isBlamed = (frame) =>
    blamed && frame.function === blamed.function && frame.file === blamed.file && frame.line === blamed.line;
  const at = frames.findIndex(isBlamed);
  const hasOwn = whole.some(own);
  const shown = [];
  frames.forEach((frame, index) => {
    if (all || index === at || (hasOwn ? own(frame) : frame.owner !== "runtime")) {
      shown.push({ frame, blamed: index === at });
    } else if (frame.owner !== "runtime") {
      const last = shown.at(-1);
      const fold = last?.folded ? last : { folded: 0, names: new Set() };
      if (fold !== last) shown.push(fold);
      fold.folded += 1;
      fold.names.add(library(frame));
    }
  });
  return shown;
}

export function foldText({ folded, names }) {
  const list = [...names].filter(Boolean);
  const of = list.length > 1 ? ` of ${list[0]} to ${list.at(-1)}` : list.length ? ` of ${list[0]}` : "";
  return `… ${counted(folded, "frame")}${of}`;
}
