// The table of tokens, and their renewal. The admin key stands in its input field and nowhere else.

import { EXPIRING_DAYS, STATES, by, copyButton, count, duration, ends, make, mark, say, until } from "./parts.js";

let waiting = null; // the token to renew once there is a key

export function freshToken(name) {
  const cell = (label) => make("td", { role: "cell", "data-label": label });
  const state = make("span", { class: "state" }, make("span", { "aria-hidden": "true" }), " ", make("span"));
  const button = make("button", { type: "button", "aria-label": `Renew ${name} now` }, "Renew now");
  button.addEventListener("click", () => button.ariaDisabled === "true" || renew(name));
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

export function updateToken(node, token) {
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
  const overdue = (until(token.refreshes_at) ?? 1) <= 0;
  say(renews.firstChild, token.exchanging ? "now" : overdue ? "overdue, is tried again" : ends(token.refreshes_at));
  say(refresh.firstChild, ends(token.refresh_expires_at));
  for (const [cell, time] of [[secret, token.secret_expires_at], [certificate, token.certificate_expires_at]]) {
    say(cell.firstChild, ends(time));
    mark(cell.firstChild, "data-tone", (until(time) ?? Infinity) < EXPIRING_DAYS * 86_400_000 ? "warn" : "");
  }
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
