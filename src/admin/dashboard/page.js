// The dashboard: what the broker tells, and what is shown of it.

import { EXPIRING_DAYS, STATES, by, duration, keep, make, mark, say, setClock, until } from "./parts.js";
import { freshEvent, freshRequest, updateEvent } from "./requests.js";
import { freshRoute, updateRoute } from "./routes.js";
import { freshToken, updateToken } from "./tokens.js";

const KEPT = 100; // events, and exchanges
const WINDOW_MS = 60_000; // of rates and latencies
const SILENCE_MS = 40_000; // the broker gives a sign of life every 15 s
const TRY_AGAIN_MS = [1000, 15_000];

let status = null;
let events = new Map();
let requests = [];
let samples = []; // [time, routes], a second apart
let held = false;

function merge(old, patch) {
  const all = { ...(old ?? {}) };
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete all[name];
    else all[name] = typeof value === "object" && !Array.isArray(value) ? merge(all[name], value) : value;
  }
  return all;
}

function todo() {
  const items = [];
  const add = (text, tone, link) => items.push([text, { text, tone, link }]);
  const tokens = Object.entries(status.tokens ?? {});
  const wrong = tokens.filter(([, token]) => token.state !== "valid" && token.state !== "pending");
  for (const [name, token] of wrong) {
    const [, words, tone] = STATES[token.state] ?? ["", token.state, "bad"];
    add(`Token ${name}: ${words}.`, tone, `#token-${name}`);
  }
  if (status.config?.error) add(`The configuration on the disk is not in force: ${status.config.error}`, "bad");
  if (status.store?.error) add(`The store: ${status.store.error}`, "bad");
  for (const one of status.expiring ?? []) {
    if (!Number.isFinite(one.days_left) || one.days_left > EXPIRING_DAYS) continue;
    add(`${one.said}; ${one.fix}`, one.days_left < 0 ? "bad" : "warn");
  }
  const pending = tokens.filter(([, token]) => token.state === "pending").length;
  const needs = items.length > 1 ? "things need" : "thing needs";
  const others = pending ? `, ${pending} pending` : "";
  say(by("summary"), items.length ? `${items.length} ${needs} a look.`
    : `Nothing: ${tokens.length - pending} of ${tokens.length} tokens are valid${others}.`);
  document.title = items.length ? `(${items.length}) tokenbroker` : "tokenbroker";
  keep(by("todo"), items, () => make("li", {}, make("span"), " ", make("a", { hidden: "" }, "See below.")),
    (node, { text, tone, link }) => {
      say(node.firstChild, text);
      mark(node.firstChild, "data-tone", tone);
      node.lastChild.hidden = !link;
      if (link) mark(node.lastChild, "href", link);
    });
}

function show() {
  if (!status) return;
  say(by("about"), `${status.version}, up for ${duration(-(until(status.started_at) ?? 0))}`);
  todo();
  keep(by("tokens"), Object.entries(status.tokens ?? {}), freshToken, updateToken);
  keep(by("routes"), Object.entries(status.routes ?? {}), freshRoute,
    (node, route, name) => updateRoute(node, route, name, samples, status.latencies_ms ?? []));
  by("hold").hidden = !status.inspector;
  say(by("requests-help"), status.inspector
    ? "The last 100, heads only. Values of queries, credentials and what looks like one are shown as ***."
    : "Not kept. With inspector = true under [admin], and a restart, the heads of the last 100 are shown here.");
  if (!held) keep(by("requests"), requests.map((one) => [String(one.number), one]), freshRequest, () => {});
  const newest = [...events.values()].sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
  keep(by("events"), newest.map((one) => [one.key, one]), freshEvent, updateEvent);
}

by("hold").addEventListener("click", () => {
  held = !held;
  mark(by("hold"), "aria-pressed", String(held));
  show();
});

let stream = null;
let pause = TRY_AGAIN_MS[0];
let heard = 0;
let again = 0;

function take(name, use) {
  stream.addEventListener(name, (event) => {
    heard = Date.now();
    use(JSON.parse(event.data));
    show();
  });
}

function connect() {
  clearTimeout(again);
  stream?.close();
  heard = Date.now();
  stream = new EventSource("/api/events");
  stream.addEventListener("error", () => lost("The broker does not answer, or eight pages look on already"));
  take("status", (whole) => {
    // What was shown before may be of another start.
    [status, events, requests, pause] = [whole, new Map(), [], TRY_AGAIN_MS[0]];
    samples = [[Date.now(), status.routes]];
    setClock(whole.now);
    link("live", "live");
    by("lost").hidden = true;
  });
  take("patch", (patch) => { status = merge(status, patch); });
  take("log", (lines) => {
    for (const one of lines) {
      events.delete(one.key);
      events.set(one.key, one);
    }
    for (const key of [...events.keys()].slice(0, Math.max(0, events.size - KEPT))) events.delete(key);
  });
  take("requests", (news) => { requests = [...news.reverse(), ...requests].slice(0, KEPT); });
  take("beat", () => {});
  take("end", () => lost("The broker is stopping"));
}

function link(state, words) {
  document.body.dataset.link = state;
  say(by("link-words"), words);
}

function lost(why) {
  stream.close();
  if (document.body.dataset.link !== "lost") {
    const from = status ? ` What stands below is as of ${new Date().toLocaleTimeString()}, and stale.` : "";
    say(by("lost"), `${why}.${from} It is tried again all the time.`);
    by("lost").hidden = false;
    link("lost", "connection lost");
  }
  clearTimeout(again);
  again = setTimeout(connect, pause);
  pause = Math.min(pause * 2, TRY_AGAIN_MS[1]);
}

// A page that nobody sees takes no connection: a browser has six for each server.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return connect();
  clearTimeout(again);
  stream?.close();
  link("paused", "paused");
});

setInterval(() => {
  if (!document.hidden && stream.readyState === EventSource.OPEN && Date.now() - heard > SILENCE_MS) {
    lost("The broker has gone silent");
  }
  if (document.body.dataset.link !== "live") return;
  samples = samples.filter(([at]) => Date.now() - at < WINDOW_MS);
  samples.push([Date.now(), status.routes]);
  show();
}, 1000);

connect();
