// The page: asks for the overview once a second while somebody looks, and shows what the address names.

import { setText, visit } from "./dom.js";
import { rate, sessionLink, timeOfDay } from "./format.js";
import { forget, keep, token } from "./token.js";
import { ask, BatchView, mayPass, OverviewView, SessionView, troubleView } from "./views.js";

const EVERY_MS = 1000;
const SAY_EVERY_MS = 15000;
const place = (id) => document.getElementById(id);

let view;
let overview = null;
let waiting = false; // whether the view could not be loaded and is to be tried again; not while it is
let timer;
let asking = false;
let awaySince = null;
let said = { at: 0, words: "" };
let locked = false; // whether the server wants a token, or another one

function viewOf(hash) {
  const batch = /^#batch\/([^/]+)(?:\/after\/(\d{1,15}))?$/.exec(hash);
  if (batch) return new BatchView(decodeURIComponent(batch[1]), Number(batch[2] ?? 0));
  const session = /^#session\/(.+)$/.exec(hash);
  return session ? new SessionView(decodeURIComponent(session[1])) : new OverviewView();
}

async function route(event) {
  if (location.hash === "#view") return; // the link that skips the heading
  let next;
  try {
    next = viewOf(location.hash);
  } catch {
    next = new OverviewView(); // an address with a broken %-sequence
  }
  view = next;
  waiting = false;
  place("view").setAttribute("aria-busy", "true");
  await show(next, Boolean(event));
}

async function show(next, moved) {
  let element = next.element;
  try {
    await next.load();
  } catch (error) {
    element = troubleView(next, error);
    if (view === next) waiting = mayPass(error);
    if (error.status === undefined) console.error(error);
  }
  if (view !== next) return; // left before it was there
  if (overview?.batches) next.update(overview);
  document.title = next instanceof OverviewView ? "clickstream" : `${next.title} – clickstream`;
  place("view").replaceChildren(element);
  place("view").removeAttribute("aria-busy");
  if (!moved) return;
  scrollTo(0, 0);
  element.querySelector("h2")?.focus({ preventScroll: true });
}

async function poll() {
  clearTimeout(timer);
  if (asking || locked || document.hidden) return;
  asking = true;
  try {
    const found = await ask("overview");
    if (!locked) take(found);
  } catch (error) {
    if (error.status === 401 || error.status === 403) lock(token() ? error.message : "");
    else away(error);
  }
  asking = false;
  if (!locked) timer = setTimeout(poll, EVERY_MS);
}

function away(error) {
  awaySince ??= new Date().toISOString();
  state("away", `${error.message.replace(/\.$/, "")}, since ${timeOfDay(awaySince)}. ${kept()}Trying again every second.`);
}

const kept = () => (overview ? "What stands here is from before. " : "");

function take(found) {
  awaySince = null;
  setText(place("server"), found.server.address);
  place("server").title = `Data: ${found.server.storage}`;
  const { answers, since, took_ms: took } = found.database;
  if (!answers) {
    state("away", `The database does not answer, since ${timeOfDay(since)}. ${kept()}Trying again every second.`);
    return;
  }
  state("up", "The database answers.", `Round trip ${took < 10 ? took.toFixed(1) : Math.round(took)} ms.`);
  overview = found;
  if (waiting) {
    waiting = false;
    show(view, false);
  } else view?.update(found);
  say(found.rate.per_s);
}

/** Ask for a token in place of everything else; ask the server nothing until there is one. */
function lock(words) {
  locked = true;
  setText(place("ask-trouble"), words);
  state("unknown", "The server asks for a token.");
  awaySince = null;
  overview = null; // another token may have to see something else
  place("view").replaceChildren();
  showLock();
  place("token").focus();
}

function unlock() {
  locked = false;
  showLock();
  route();
  poll();
}

function showLock() {
  place("ask").hidden = !locked;
  place("view").hidden = locked;
  place("find").hidden = locked;
  place("forget").hidden = locked || !token();
}

place("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = place("token").value.trim();
  place("token").value = "";
  if (keep(given)) unlock();
  else setText(place("ask-trouble"), "That is not a token: it begins with cst_ and has 85 characters.");
});
place("forget").addEventListener("click", () => {
  forget();
  lock("");
});

/** What changes every second stands beside the words: those are read out when they change. */
function state(kind, words, beside = "") {
  place("state").dataset.state = kind;
  setText(place("state-words"), words);
  setText(place("took"), beside);
}

/** For those who listen: not every second, and only what is new. */
function say(perSecond) {
  if (perSecond === null || Date.now() - said.at < SAY_EVERY_MS) return;
  const words = `${rate(perSecond)} sessions per second`;
  if (words !== said.words) setText(place("rate-said"), words);
  said = { at: Date.now(), words };
}

place("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = place("session-id").value;
  if (id.trim()) visit(sessionLink(id));
});
place("skip").addEventListener("click", (event) => {
  event.preventDefault();
  place("view").focus();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link?.hash !== location.hash || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  visit(link.hash);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
  event.preventDefault();
  place("session-id").focus();
});
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", poll);
showLock();
route();
poll();
