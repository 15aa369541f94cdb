// The dashboard. What it shows may come from a hostile vendor, API or client: it is only ever set as text.
// The admin key stands in its input field and nowhere else.

const KEPT = 100; // events, and exchanges
const WINDOW_MS = 60_000; // of rates and latencies
const SILENCE_MS = 40_000; // the broker gives a sign of life every 15 s
const TRY_AGAIN_MS = [1000, 15_000];
const EXPIRING_DAYS = 30;

const STATES = {
  pending: ["…", "pending", ""],
  valid: ["✓", "valid", "good"],
  degraded: ["!", "degraded: in use, but not renewed", "warn"],
  expired: ["✕", "expired", "bad"],
  rejected: ["✕", "rejected", "bad"],
  needs_login: ["✕", "needs a login", "bad"],
};
const LEVELS = { error: ["✕ error", "bad"], warn: ["! warning", "warn"], info: ["info", ""] };

const by = (id) => document.getElementById(id);
let status = null;
let skew = 0; // the broker's clock less this one's
let events = new Map();
let requests = [];
let samples = []; // [time, routes], a second apart
let held = false;
let waiting = null; // the token to renew once there is a key

// --- small things ---------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// One child for each item, in this order; those that stay are not touched, so that focus and selection stay.
function keep(parent, items, fresh, update) {
  const old = new Map();
  for (const node of parent.children) if (node.dataset.key !== undefined) old.set(node.dataset.key, node);
  let next = [...parent.children].find((node) => node.dataset.key !== undefined) ?? null;
  for (const [key, item] of items) {
    const node = old.get(key) ?? fresh(key, item);
    node.dataset.key = key;
    old.delete(key);
    update(node, item, key);
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
  for (const node of old.values()) node.remove();
}

function duration(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} days`;
}

// Milliseconds until then; null where that is not known.
function until(time) {
  const at = typeof time === "string" ? Date.parse(time) : NaN;
  return Number.isFinite(at) ? at - Date.now() - skew : null;
}

function ends(time) {
  const left = until(time);
  if (left === null) return "–";
  return left > 0 ? `in ${duration(left)}` : `${duration(-left)} ago`;
}

function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}

function merge(old, patch) {
  const all = { ...(old ?? {}) };
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete all[name];
    else all[name] = typeof value === "object" && !Array.isArray(value) ? merge(all[name], value) : value;
  }
  return all;
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const count = (number) => number.toLocaleString();

function copyButton(text, what) {
  const button = make("button", { type: "button" }, `Copy ${what}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      say(by("said"), `Copied: ${what}.`);
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      say(by("said"), `Selected: ${what}. Copy it with the keyboard.`);
    }
  });
  return button;
}

// --- tokens ---------------------------------------------------------------------------------------------------------

function freshToken(name) {
  const cell = (label) => make("td", { role: "cell", "data-label": label });
  const state = make("span", { class: "state" }, make("span", { "aria-hidden": "true" }), " ", make("span"));
  const button = make("button", { type: "button", "aria-label": `Renew ${name} now` }, "Renew now");
  button.addEventListener("click", () => renew(name));
  const main = make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader", id: `token-${name}` }, name,
    make("span", { class: "small" })));
  const cells = ["State", "Time left", "Renews", "Refresh token ends", "Secret ends", "Certificate ends", ""].map(cell);
  cells[0].append(state);
  cells[1].append(make("span"), make("progress", { max: "1", "aria-label": `life of ${name} that is left` }));
  for (const one of cells.slice(2, 6)) one.append(make("span"));
  cells[6].append(button);
  main.append(...cells);
  const login = make("div", { hidden: "" }, make("p", {}, "Log in with this command:"), make("pre", {}, make("code")));
  login.append(copyButton(() => login.querySelector("code").textContent, "the command to log in"));
  const detail = make("tr", { role: "row", class: "detail", hidden: "" },
    make("td", { role: "cell", colspan: "8" }, make("p"), login));
  return make("tbody", { role: "rowgroup" }, main, detail);
}

function updateToken(node, token) {
  const [main, detail] = node.children;
  const [name, state, left, renews, refresh, secret, certificate, action] = main.children;
  say(name.lastChild, token.dialect ?? "");
  const [icon, words, tone] = STATES[token.state] ?? ["?", token.state, "bad"];
  say(state.firstChild.firstChild, icon);
  say(state.firstChild.lastChild, words);
  mark(state.firstChild, "data-tone", tone);
  const [remaining, bar] = left.children;
  const life = until(token.expires_at);
  const whole = life === null ? null : Date.parse(token.expires_at) - Date.parse(token.obtained_at);
  say(remaining, token.fingerprint && life === null ? "does not end" : life > 0 ? duration(life) : "none");
  bar.hidden = !(whole > 0);
  if (whole > 0) bar.value = Math.min(1, Math.max(0, life / whole));
  say(renews.firstChild, token.exchanging ? "now" : ends(token.refreshes_at));
  say(refresh.firstChild, ends(token.refresh_expires_at));
  say(secret.firstChild, ends(token.secret_expires_at));
  say(certificate.firstChild, ends(token.certificate_expires_at));
  mark(action.firstChild, "aria-disabled", String(Boolean(token.exchanging)));
  const [error, login] = detail.firstChild.children;
  const tries = token.attempts > 1 ? ` (${count(token.attempts)} tries have failed)` : "";
  say(error, token.last_error ? `${token.last_error}${tries}` : "");
  mark(error, "data-tone", tone);
  login.hidden = !token.login;
  say(login.querySelector("code"), token.login ?? "");
  detail.hidden = !token.last_error && !token.login;
}

async function renew(name) {
  const key = by("key");
  if (!key.value) {
    waiting = name;
    key.focus();
    return say(by("said"), `Type the admin key and press Enter to renew ${name}.`);
  }
  say(by("said"), `Renewing ${name}…`);
  try {
    const headers = { Authorization: `Bearer ${key.value.trim()}` };
    const path = `/api/tokens/${encodeURIComponent(name)}/refresh`;
    const answer = await fetch(path, { method: "POST", headers, credentials: "omit", redirect: "error" });
    const body = await answer.json();
    if (answer.status === 401) {
      key.value = "";
      waiting = name;
      key.focus();
      return say(by("said"), "That is not the admin key of this broker: it is made anew at each start.");
    }
    if (answer.ok) return say(by("said"), `${name} was renewed.`);
    say(by("said"), `${name} was not renewed: ${body.last_error ?? body.detail ?? answer.status}`);
  } catch (error) {
    say(by("said"), `${name}: the broker did not answer (${error.message}).`);
  }
}

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = waiting;
  waiting = null;
  if (name !== null && by("key").value) renew(name);
});

// --- what to do -----------------------------------------------------------------------------------------------------

function todo() {
  const items = [];
  const add = (text, tone, link) => items.push([text, { text, tone, link }]);
  const tokens = Object.entries(status.tokens ?? {});
  const wrong = tokens.filter(([, token]) => token.state !== "valid" && token.state !== "pending");
  for (const [name, token] of wrong) {
    add(`Token ${name}: ${STATES[token.state]?.[1] ?? token.state}.`, STATES[token.state]?.[2] ?? "bad", `#token-${name}`);
  }
  if (status.config?.error) add(`The configuration on the disk is not in force: ${status.config.error}`, "bad");
  if (status.store?.error) add(`The store: ${status.store.error}`, "bad");
  for (const one of status.expiring ?? []) {
    if (!Number.isFinite(one.days_left) || one.days_left > EXPIRING_DAYS) continue;
    add(`${one.table}: ${one.said}; ${one.fix}`, one.days_left < 0 ? "bad" : "warn");
  }
  const pending = tokens.filter(([, token]) => token.state === "pending").length;
  const fine = items.length ? `${items.length} ${items.length > 1 ? "things need" : "thing needs"} a look.`
    : `Nothing: ${tokens.length - pending} of ${tokens.length} tokens are valid${pending ? `, ${pending} pending` : ""}.`;
  say(by("summary"), fine);
  document.title = items.length ? `(${items.length}) tokenbroker` : "tokenbroker";
  keep(by("todo"), items, () => make("li", {}, make("span"), make("a", { hidden: "" }, " See below.")),
    (node, { text, tone, link }) => {
      say(node.firstChild, text);
      mark(node.firstChild, "data-tone", tone);
      node.lastChild.hidden = !link;
      if (link) mark(node.lastChild, "href", link);
    });
}

// --- routes ---------------------------------------------------------------------------------------------------------

function freshRoute(name) {
  const labels = ["From, to", "Requests", "Latency of the API", "Errors of the API", "Errors of the broker"];
  const cells = labels.map((label) => make("td", { role: "cell", "data-label": label }, make("span"),
    make("span", { class: "small" })));
  return make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, name, make("span",
    { class: "small" })), ...cells);
}

function updateRoute(node, route, name) {
  const [head, way, requests, latency, api, broker] = node.children;
  say(head.lastChild, route.token ? `token ${route.token}` : "no token");
  say(way.firstChild, (route.listen ?? []).join(", "));
  say(way.lastChild, `→ ${route.upstream}`);
  const [since, old] = samples.find(([, routes]) => routes?.[name]) ?? [];
  const before = old?.[name];
  const seconds = before ? (Date.now() - since) / 1000 : 0;
  // A route that was changed counts anew.
  const less = (now, then) => now.map((n, at) => Math.max(0, n - (then?.[at] ?? 0)));
  const { upstream, broker: own } = route.answers;
  const fresh = less(upstream, before?.answers.upstream);
  const freshOwn = less(own, before?.answers.broker);
  say(requests.firstChild, seconds >= 1 ? `${((sum(fresh) + sum(freshOwn)) / seconds).toFixed(1)} /s` : "–");
  say(requests.lastChild, `${count(route.requests)} in all`);
  const lately = less(route.latencies, before?.latencies);
  const [times, of] = before && sum(lately) ? [lately, ""] : [route.latencies, ", since the start"];
  say(latency.firstChild, sum(times) ? `half within ${quantile(times, 0.5)}` : "–");
  say(latency.lastChild, sum(times) ? `95 % within ${quantile(times, 0.95)}${of}` : "");
  const recent = (number) => (number ? `${count(number)} in the last minute` : "");
  say(api.firstChild, upstream[3] + upstream[4] ? `${count(upstream[4])} × 5xx, ${count(upstream[3])} × 4xx` : "none");
  say(api.lastChild, recent(fresh[3] + fresh[4]));
  mark(api.firstChild, "data-tone", fresh[4] ? "warn" : "");
  const errors = (classes) => classes[3] + classes[4];
  say(broker.firstChild, errors(own) ? `${count(own[4])} × 5xx, ${count(own[3])} × 4xx` : "none");
  say(broker.lastChild, recent(errors(freshOwn)));
  mark(broker.firstChild, "data-tone", freshOwn[4] ? "warn" : "");
}

function quantile(counts, part) {
  const bounds = status.latencies_ms ?? [];
  let left = part * sum(counts);
  const at = counts.findIndex((n) => (left -= n) <= 0);
  const bound = bounds[at];
  if (bound === undefined) return "more than a minute";
  return bound >= 1000 ? `${(bound / 1000).toFixed(1)} s` : `${bound} ms`;
}

// --- requests and events --------------------------------------------------------------------------------------------

function freshRequest(_, one) {
  const who = { upstream: "from the API", broker: "from the broker" }[one.origin] ?? "the client went";
  const tone = one.origin === "broker" && one.status >= 500 ? "bad" : one.status >= 400 ? "warn" : "";
  const again = one.retries ? `, sent again ${one.retries} ×` : "";
  const summary = make("summary", {}, make("time", {}, clock(one.at)), " ",
    make("code", {}, `${one.method} ${one.target}`), " ",
    make("span", { "data-tone": tone }, `${one.status ?? "no answer"} ${who}`), " ",
    make("span", { class: "took" }, `${one.milliseconds.toFixed(1)} ms, ${one.route ?? "no route"}${again}`));
  const details = make("details", {}, summary);
  // Most are never opened.
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(...heads(one)), { once: true });
  return make("li", {}, details);
}

function heads(one) {
  const list = (fields) => make("dl", {}, ...fields.flatMap(([name, value]) => [make("dt", {}, name),
    make("dd", { class: "mono" }, value)]));
  const added = one.added.map((name) => [name, "*** (added by the broker)"]);
  const lacks = one.left_out.length ? `Without ${one.left_out.join(", ")}: not shown here. ` : "";
  const masks = one.target.includes("***") ? "Put the values in that stand as *** here. " : "";
  const body = one.curl.includes("@body") ? "The body is not kept: put it into a file named body. " : "";
  const curl = make("div", {}, make("pre", {}, make("code", {}, one.curl)));
  curl.append(copyButton(() => one.curl, "as curl"), make("p", { class: "help" }, lacks + masks + body));
  return [make("h3", {}, "Request"), list([...one.request, ...added]), make("h3", {}, "Answer"), list(one.response),
    make("h3", {}, "Once more, through the broker"), curl];
}

function updateEvent(node, one) {
  const [level, tone] = LEVELS[one.level] ?? [one.level, ""];
  const fields = Object.entries(one.fields ?? {}).map(([name, value]) => `${name}=${value}`).join("  ");
  const often = one.count > 1 ? ` × ${count(one.count)} since ${clock(one.first_at)}` : "";
  say(node.children[0], clock(one.at));
  say(node.children[1], level);
  mark(node.children[1], "data-tone", tone);
  say(node.children[2], `${one.message}${often}`);
  say(node.children[3], fields);
}

const freshEvent = () => make("li", {}, make("time"), " ", make("span", { class: "level" }), " ", make("strong"), " ",
  make("code"));

// --- all of it ------------------------------------------------------------------------------------------------------

function show() {
  if (!status) return;
  say(by("about"), `${status.version}, up for ${duration(-(until(status.started_at) ?? 0))}`);
  todo();
  keep(by("tokens"), Object.entries(status.tokens ?? {}), freshToken, updateToken);
  keep(by("routes"), Object.entries(status.routes ?? {}), freshRoute, updateRoute);
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
  stream.addEventListener("error", () => lost("The broker does not answer"));
  take("status", (whole) => {
    // What was shown before may be of another start.
    [status, events, requests, pause] = [whole, new Map(), [], TRY_AGAIN_MS[0]];
    samples = [[Date.now(), status.routes]];
    skew = Date.parse(whole.now) - Date.now() || 0;
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
  link("lost", "paused");
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
