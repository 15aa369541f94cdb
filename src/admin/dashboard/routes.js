// The table of routes: what the API answers apart from what the broker answers itself.

import { count, make, mark, say, sum } from "./parts.js";

export function freshRoute(name) {
  const labels = ["From, to", "Requests", "Latency of the API", "Errors of the API", "Errors of the broker"];
  const cells = labels.map((label) => make("td", { role: "cell", "data-label": label }, make("span"),
    make("span", { class: "small" })));
  return make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, name, make("span",
    { class: "small" })), ...cells);
}

// `samples`: what there was before, as [time, routes], the oldest first. `bounds`: of the classes of latencies, in ms.
export function updateRoute(node, route, name, samples, bounds) {
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
  say(latency.firstChild, sum(times) ? `half within ${quantile(times, 0.5, bounds)}` : "–");
  say(latency.lastChild, sum(times) ? `95 % within ${quantile(times, 0.95, bounds)}${of}` : "");
  const recent = (number) => (number ? `${count(number)} in the last minute` : "");
  const errors = (classes) => classes[3] + classes[4];
  const counted = (classes) => errors(classes) ? `${count(classes[4])} × 5xx, ${count(classes[3])} × 4xx` : "none";
  say(api.firstChild, counted(upstream));
  say(api.lastChild, recent(errors(fresh)));
  mark(api.firstChild, "data-tone", fresh[4] ? "warn" : "");
  say(broker.firstChild, counted(own));
  say(broker.lastChild, recent(errors(freshOwn)));
  mark(broker.firstChild, "data-tone", freshOwn[4] ? "warn" : "");
}

function quantile(counts, part, bounds) {
  let left = part * sum(counts);
  const at = counts.findIndex((n) => (left -= n) <= 0);
  const bound = bounds[at];
  if (bound === undefined) return "more than a minute";
  return bound >= 1000 ? `${(bound / 1000).toFixed(1)} s` : `${bound} ms`;
}
