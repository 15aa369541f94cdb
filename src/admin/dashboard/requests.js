// The lists of requests and of events.

import { clock, copyButton, count, make, mark, say } from "./parts.js";

const LEVELS = { error: ["✕ error", "bad"], warn: ["! warning", "warn"], info: ["info", ""] };


export function freshRequest(_, one) {
  const who = { upstream: "from the API", broker: "from the broker" }[one.origin] ?? "the client went";
  const tone = one.origin === "broker" && one.status >= 500 ? "bad" : one.status >= 400 ? "warn" : "";
  const again = one.retries ? `, sent again ${one.retries} ×` : "";
  const summary = make("summary", {}, make("time", {}, clock(one.at)), " ",
    make("code", {}, `${one.method} ${one.target}`), " ",
    make("span", { "data-tone": tone }, `${one.status ?? "no answer"} ${who}`), " ",
    make("span", { class: "took" }, `${one.milliseconds.toFixed(1)} ms, ${one.route ?? "no route"}${again}`));
  const details = make("details", {}, summary);
  // Most are never opened.
  details.addEventListener("toggle", () => details.append(...heads(one)), { once: true });
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

export function updateEvent(node, one) {
  const [level, tone] = LEVELS[one.level] ?? [one.level, ""];
  // What it is about stands with the message; what went wrong, which is long, at the end.
  const { token, route, error, ...others } = one.fields ?? {};
  const fields = Object.entries(others).map(([name, value]) => `${name}=${value}`).concat(error ?? []).join("  ");
  const often = one.count > 1 ? ` × ${count(one.count)} since ${clock(one.first_at)}` : "";
  say(node.children[0], clock(one.at));
  say(node.children[1], level);
  mark(node.children[1], "data-tone", tone);
  say(node.children[2], `${[token, route].filter(Boolean).map((name) => `${name}: `).join("")}${one.message}${often}`);
  say(node.children[3], fields);
}

export const freshEvent = () => make("li", {}, make("time"), " ", make("span", { class: "level" }), " ",
  make("strong"), " ", make("code"));
