// The page: asks the daemon again and again, shows the view that the address names, and does what
// keys and buttons say.

import { Refused, ask, token } from "./ask.js";
import { h, morph } from "./draw.js";
import * as views from "./views.js";
import { duration } from "./words.js";

/** Between two answers. */
const EVERY_MS = 2000;
/** Longest wait where nobody answers. */
const WAIT_MOST_MS = 30_000;

const main = document.getElementById("main");
const state = {
  report: null,
  overview: null,
  detail: null,
  now: Date.now(),
  filter: "",
  sort: { key: "", down: true },
  allFrames: false,
  hasToken: Boolean(token.get()),
  /** What the daemon refused to say, where it did. */
  refused: null,
  paused: false,
};
/** When there was the last answer, and when the daemon was first found away. */
let answered = 0;
let away = 0;
let wait = EVERY_MS;
let due = 0;
let timer;
/** The heading of what was gone to has yet to be focused, because it was not there. */
let arriving = false;
/** Only the latest round of questions may change what is shown. */
let round = 0;

/** The view and what it is of: `["finding", "3f9a1c2b4d5e"]`. */
function route() {
  const [view, ...rest] = location.hash.slice(1).split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // a damaged address is asked for as it is
  }
  return [["leaks", "finding", "populations", "node"].includes(view) ? view : "leaks", id];
}

function content() {
  if (state.refused?.status === 401) return views.prompt(state);
  if (!state.report) {
    return away ? views.trouble("The daemon does not answer", state.refused?.message ?? "It may be stopped, or on its way up.") : [h("p", { class: "empty" }, "Asking the daemon …")];
  }
  const [view, id] = route();
  if (view !== "finding") return views[view](state);
  if (state.detail && state.detail.finding.id.startsWith(id)) return views.finding(state);
  if (state.refused && state.refused.id === id) return views.trouble("No such finding", state.refused.message);
  return [h("p", { class: "empty" }, "Asking the daemon …")];
}

function show() {
  const wanted = h("main", { id: "main", tabindex: "-1" }, ...content().filter(Boolean));
  const focused = document.activeElement;
  morph(main, wanted);
  // what moved lost it
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  const field = document.getElementById("filter");
  if (field && field.value !== state.filter) field.value = state.filter;
  const [view] = route();
  for (const link of document.querySelectorAll("nav a")) {
    const current = link.getAttribute("href") === `#${view}` || (view === "finding" && link.getAttribute("href") === "#leaks");
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const host = state.overview?.host ?? "";
  document.getElementById("host").textContent = host;
  const heading = main.querySelector("h1");
  if (arriving && heading) {
    heading.focus();
    arriving = false;
  }
  const title = heading?.textContent ?? "";
  document.title = [title, host, "tracer"].filter(Boolean).join(" · ");
  tell();
}

/** Says whether what is shown is live. Only changes of the first part are read aloud. */
function tell() {
  const word = state.paused ? "paused" : away ? "the daemon is away" : answered ? "live" : state.refused ? "closed" : "connecting …";
  const element = document.getElementById("state");
  if (element.textContent !== word) element.textContent = word;
  document.body.dataset.state = state.paused ? "paused" : away ? "away" : answered ? "live" : "";
  const seconds = (ms) => duration(Math.max(0, Math.round(ms / 1000)));
  const age = answered ? `${seconds(Date.now() - answered)} ago` : "";
  const next = away && !state.paused ? `asking again in ${seconds(due - Date.now())}` : "";
  document.getElementById("age").textContent = [age, next].filter(Boolean).join(", ");
}

async function answers() {
  const [view, id] = route();
  const [report, overview, detail] = await Promise.all([
    ask("v1/report"),
    ask("v1/overview"),
    view === "finding" ? ask(`v1/findings/${encodeURIComponent(id)}`).catch((error) => {
      if (!(error instanceof Refused) || error.status === 401 || error.status >= 500) throw error;
      return Object.assign(error, { id });
    }) : null,
  ]);
  return { report, overview, detail };
}

async function update() {
  clearTimeout(timer);
  const mine = ++round;
  try {
    const { report, overview, detail } = await answers();
    if (mine !== round) return;
    const missing = detail instanceof Refused;
    Object.assign(state, { report, overview, detail: missing ? null : detail, refused: missing ? detail : null, now: Date.now() });
    [answered, away, wait] = [Date.now(), 0, EVERY_MS];
  } catch (error) {
    if (mine !== round) return;
    state.refused = error instanceof Refused ? error : null;
    if (state.refused?.status === 401) {
      // asked again when there is another token
      Object.assign(state, { report: null, overview: null, detail: null });
      [answered, away] = [0, 0];
      show();
      document.getElementById("token")?.focus();
      return;
    }
    wait = away ? Math.min(wait * 2, WAIT_MOST_MS) : EVERY_MS;
    away ||= Date.now();
  }
  show();
  later();
}

function later() {
  due = Date.now() + wait;
  clearTimeout(timer);
  if (!state.paused && !document.hidden && state.refused?.status !== 401) timer = setTimeout(update, wait);
}

const filterField = () => document.getElementById("filter");
const rows = () => [...main.querySelectorAll("tbody tr[data-open] a")];
let opened = null;

const actions = {
  skip: () => main.focus(),
  ask: () => update(),
  forget: () => {
    token.forget();
    state.hasToken = false;
    update();
  },
  pause: () => {
    state.paused = !state.paused;
    document.getElementById("pause").setAttribute("aria-pressed", String(state.paused));
    if (state.paused) clearTimeout(timer);
    else update();
    tell();
  },
  sort: ({ sort: key }) => {
    state.sort = { key, down: state.sort.key === key ? !state.sort.down : ["leaked", "rate"].includes(key) };
    show();
  },
};

document.addEventListener("click", (event) => {
  const wanted = event.target.closest("[data-do]");
  const action = wanted?.tagName !== "FORM" && actions[wanted?.dataset.do];
  if (action) {
    event.preventDefault();
    action(wanted.dataset);
    return;
  }
  // the whole row opens its finding, unless text in it was selected
  const row = event.target.closest("tr[data-open]");
  if (row && !event.target.closest("a") && getSelection().isCollapsed) location.hash = row.dataset.open;
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = document.getElementById("token").value.trim();
  state.hasToken = true;
  // no header can have anything else, and so no token
  if (!/^[\x21-\x7e]+$/.test(given)) return show();
  token.set(given);
  update().then(() => state.report && main.querySelector("h1").focus());
});

document.addEventListener("input", (event) => {
  if (event.target.id === "filter") state.filter = event.target.value.trim();
  else if (event.target.id === "frames") state.allFrames = event.target.checked;
  else return;
  show();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target.matches("input:not([type=checkbox])");
  const { key } = event;
  if (key === "Escape") {
    if (state.filter && filterField()) {
      state.filter = "";
      show();
    } else if (writing) event.target.blur();
    else if (route()[0] !== "leaks") location.hash = "#leaks";
  } else if (key === "ArrowDown" || key === "ArrowUp") {
    const all = rows();
    const at = all.indexOf(document.activeElement?.closest("tr")?.querySelector("a"));
    const next = at < 0 ? (key === "ArrowDown" && (writing || document.activeElement === document.body) ? 0 : -1) : at + (key === "ArrowDown" ? 1 : -1);
    if (!all[next]) return;
    all[next].focus();
  } else if (writing) return;
  else if (key === "/" && filterField()) filterField().focus();
  else if (key === "p") actions.pause();
  else return;
  event.preventDefault();
});

addEventListener("hashchange", () => {
  const [view, id] = route();
  state.filter = "";
  if (state.refused?.id) state.refused = null;
  show();
  // the row that was opened, when coming back; else the heading of what is new
  const back = view === "leaks" && opened && rows().find((link) => link.closest("tr").dataset.key.startsWith(opened));
  arriving = !back && !main.querySelector("h1");
  (back || main.querySelector("h1") || main).focus();
  if (!back) scrollTo(0, 0);
  opened = view === "finding" ? id : null;
  if (!state.paused || view === "finding") update();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!state.paused && state.refused?.status !== 401) update();
});

setInterval(() => state.refused?.status !== 401 && tell(), 1000);
opened = route()[0] === "finding" ? route()[1] : null;
show();
update();
