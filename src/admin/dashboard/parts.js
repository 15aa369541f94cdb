// What the parts of the page are made of. What it shows may come from a hostile vendor, API or client: it is only ever set
// as text.

export const EXPIRING_DAYS = 30;

export const STATES = {
  pending: ["…", "pending", ""],
  valid: ["✓", "valid", "good"],
  degraded: ["!", "degraded: in use, but not renewed", "warn"],
  expired: ["✕", "expired", "bad"],
  rejected: ["✕", "rejected", "bad"],
  needs_login: ["✕", "needs a login", "bad"],
};

export const by = (id) => document.getElementById(id);

let skew = 0; // the broker's clock less this one's

export function setClock(time) {
  skew = Date.parse(time) - Date.now() || 0;
}

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// One child for each item, in this order; those that stay are not touched, so that focus and selection stay.
export function keep(parent, items, fresh, update) {
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

export function duration(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  const days = Math.floor(seconds / 86_400);
  return days < 730 ? `${days} days` : `${Math.floor(days / 365)} years`;
}

// Milliseconds until then; null where that is not known.
export function until(time) {
  const at = typeof time === "string" ? Date.parse(time) : NaN;
  return Number.isFinite(at) ? at - Date.now() - skew : null;
}

export function ends(time) {
  const left = until(time);
  if (left === null) return "–";
  return left > 0 ? `in ${duration(left)}` : `${duration(-left)} ago`;
}

export function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}

export const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
export const count = (number) => number.toLocaleString();

export function copyButton(text, what) {
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
