// What can be looked at: the batches, a batch, a session. A view has an element and a title; `load` fetches what it
// shows, and `update` takes each new overview.

import { RateChart } from "./chart.js";
import { h, setText, visit } from "./dom.js";
import { batchLink, count, counted, moment, rate, statusWord } from "./format.js";
import { sessionItem, sessionPage } from "./session.js";
import { token } from "./token.js";

const PAGE = 25;
const RENEW_EVERY_MS = 3000; // what the overview has not, older batches, is asked for anew less often
const DEFAULT_ADDRESS = "127.0.0.1:50051";

/** The server's answer, or an Error with words for people; its `status` is 0 if no server answered. */
export async function ask(path, parameters = {}) {
  let answer;
  const known = token();
  const headers = known ? { authorization: `Bearer ${known}` } : {};
  try {
    const query = new URLSearchParams(parameters).toString();
    answer = await fetch(`api/${path}${query && "?"}${query}`, { headers, signal: AbortSignal.timeout(8000) });
  } catch {
    throw Object.assign(new Error("The server does not answer."), { status: 0 });
  }
  const found = await answer.json().catch(() => null);
  if (answer.ok && found) return found;
  const words = found?.error?.message ?? `The server answered with an error (${answer.status}).`;
  throw Object.assign(new Error(words), { status: answer.status });
}

const pill = (status) => h("span", { class: `pill ${status.toLowerCase().replace("_", "-")}` }, statusWord(status));

// --- all batches ---------------------------------------------------------------------------------------------------

export class OverviewView {
  title = "Batches";

  constructor() {
    this.chart = new RateChart();
    this.perSecond = h("span", { class: "big", id: "rate" }, "–");
    this.explained = h("p", { class: "quiet", id: "rate-words" }, "");
    this.rows = new Map();
    this.newest = [];
    this.older = []; // those after the newest, without a gap, once somebody has asked for them
    this.olderToken = "";
    this.olderWanted = false;
    this.renewFrom = ""; // where the next part of the older ones begins that is asked for anew; empty: at the first
    this.renewedAt = 0;
    this.body = h("tbody", { id: "batches" });
    this.table = h(
      "table",
      { class: "batches", hidden: true },
      h("thead", {}, h("tr", {}, ["Batch", "Status", "Sessions", "Begun", "Released"].map((name) => h("th", { scope: "col" }, name)))),
      this.body,
    );
    this.empty = h("div", { class: "empty", hidden: true });
    this.more = h("button", { class: "plain", hidden: true, click: () => this.showOlder() }, "Show older batches");
    this.trouble = h("p", { class: "notice", role: "alert", hidden: true });
    this.element = h(
      "div",
      {},
      h(
        "section",
        { class: "card rate" },
        h("div", {}, h("h2", { tabindex: -1 }, "Sessions per second"), h("p", {}, this.perSecond, h("span", { class: "unit" }, " now")), this.explained),
        this.chart.element,
      ),
      h("section", { class: "card" }, h("h2", {}, "Batches"), this.empty, this.table, this.trouble, this.more),
    );
  }

  async load() {}

  update(found) {
    const { per_s: perSecond, samples } = found.rate;
    setText(this.perSecond, perSecond === null ? "–" : rate(perSecond));
    setText(this.explained, perSecond === null ? "Counting …" : `${counted(samples.reduce((sum, sample) => sum + sample[2], 0), "session")} ${span(samples)}`);
    this.chart.update(samples);
    this.takeNewest(found);
    if (this.older.length) this.renewOlder(found.next_page_token);
    const batches = [...this.newest, ...this.older];
    const collecting = found.collecting;
    if (collecting && !batches.some((batch) => batch.batch_id === collecting.batch_id)) batches.unshift(collecting);
    this.more.hidden = !this.olderToken;
    this.show(batches, found.server.address);
  }

  /** New batches push others out of the newest: those join the older ones that are shown, or the button brings them. */
  takeNewest({ batches, next_page_token: token }) {
    const ids = new Set(batches.map((batch) => batch.batch_id));
    const follows = this.newest.some((batch) => ids.has(batch.batch_id));
    if (this.olderWanted && follows) this.older.unshift(...this.newest.filter((batch) => !ids.has(batch.batch_id)));
    else [this.older, this.olderToken, this.olderWanted] = [[], token, false];
    this.newest = batches;
  }

  /** Ask for a part of the older ones anew, each in its turn: their statuses change, too. `first`: where they begin. */
  async renewOlder(first) {
    if (performance.now() - this.renewedAt < RENEW_EVERY_MS) return;
    this.renewedAt = performance.now();
    const found = await ask("batches", { page_token: this.renewFrom || first }).catch(() => null);
    if (!found) return; // the overview says what is the matter
    const anew = new Map(found.batches.map((batch) => [batch.batch_id, batch]));
    this.older = this.older.map((batch) => anew.get(batch.batch_id) ?? batch);
    this.renewFrom = anew.has(this.older.at(-1)?.batch_id) ? "" : found.next_page_token;
  }

  show(batches, address) {
    this.table.hidden = batches.length === 0;
    this.empty.hidden = batches.length > 0;
    if (!batches.length && !this.empty.childElementCount) this.empty.append(...nothingYet(address));
    const most = Math.max(1, ...batches.map((batch) => batch.session_counter));
    const rows = batches.map((batch) => {
      if (!this.rows.has(batch.batch_id)) this.rows.set(batch.batch_id, new BatchRow(batch));
      const row = this.rows.get(batch.batch_id);
      row.update(batch, most);
      return row.element;
    });
    rows.forEach((row, place) => {
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place] ?? null);
    });
    while (this.body.children.length > rows.length) this.body.lastChild.remove();
  }

  async showOlder() {
    this.trouble.hidden = true;
    const token = this.olderToken;
    this.olderWanted = true;
    try {
      const found = await ask("batches", { page_token: token });
      if (this.olderToken !== token) return; // asked for twice, or the list has begun anew
      this.older.push(...found.batches);
      this.olderToken = found.next_page_token;
      this.more.hidden = !this.olderToken;
    } catch (error) {
      setText(this.trouble, `${error.message} Try again in a moment.`);
      this.trouble.hidden = false;
    }
  }
}

function span(samples) {
  const seconds = Math.min(300, Math.max(0, ...samples.map((sample) => sample[0])));
  return `in the last ${seconds < 90 ? counted(Math.round(seconds), "second") : counted(Math.round(seconds / 60), "minute")}`;
}

function nothingYet(address) {
  const target = address === DEFAULT_ADDRESS ? "" : ` --target ${address}`;
  return [
    h("p", {}, h("strong", {}, "Nothing registered yet.")),
    h("p", {}, "Try this in the folder of the server, and watch it come in:"),
    h("pre", { tabindex: 0 }, `.venv/bin/clickstream replay --sample${target}`),
  ];
}

class BatchRow {
  constructor(batch) {
    this.status = h("td", { "data-label": "Status" });
    this.figure = h("span", { class: "figure" });
    this.bar = h("span", { class: "share" });
    this.released = h("td", { "data-label": "Released" });
    this.element = h(
      "tr",
      { "data-batch": batch.batch_id },
      h("td", {}, h("a", { href: batchLink(batch.batch_id) }, batch.batch_id)),
      this.status,
      h("td", { class: "size", "data-label": "Sessions" }, this.figure, h("span", { class: "size-bar", "aria-hidden": "true" }, this.bar)),
      h("td", { "data-label": "Begun" }, moment(batch.created_at)),
      this.released,
    );
  }

  update(batch, most) {
    setText(this.figure, count(batch.session_counter));
    this.figure.dataset.unit = batch.session_counter === 1 ? "session" : "sessions";
    this.bar.style.width = `${(100 * batch.session_counter) / most}%`;
    if (this.shown === batch.updated_at + batch.status) return;
    this.shown = batch.updated_at + batch.status;
    this.status.replaceChildren(pill(batch.status));
    this.released.replaceChildren(...releaseWords(batch));
  }
}

function releaseWords(batch) {
  if (!batch.released_at) return [h("span", { class: "quiet" }, batch.status === "COLLECTING" ? "not yet" : "—")];
  return [moment(batch.released_at), " ", h("span", { class: "quiet" }, "as "), h("code", { dir: "auto" }, batch.release_id)];
}

// --- one batch -----------------------------------------------------------------------------------------------------

export class BatchView {
  constructor(id, afterNumber) {
    this.id = id;
    this.afterNumber = afterNumber;
    this.title = `Batch ${id}`;
    this.renewedAt = 0;
    this.element = h("div", {});
  }

  async load() {
    const found = await ask("batch", { id: this.id, after_number: this.afterNumber, limit: PAGE });
    this.batch = found.batch;
    this.lastNumber = found.last_number;
    this.size = h("strong", { id: "batch-size" }, count(found.batch.session_counter));
    this.state = h("dd", {}, pill(found.batch.status));
    this.released = h("dd", {}, releaseWords(found.batch));
    this.news = h("p", { class: "news" });
    const sessions = h("div", { class: "sessions", id: "sessions" }, found.sessions.map((row) => sessionItem(row)));
    this.element.replaceChildren(
      crumb(),
      h(
        "section",
        { class: "card" },
        h("h2", { tabindex: -1 }, "Batch ", h("code", {}, this.id)),
        h(
          "dl",
          { class: "facts" },
          fact("Status", this.state),
          fact("Sessions", h("dd", {}, this.size)),
          fact("Begun", h("dd", {}, moment(found.batch.created_at))),
          fact("Released", this.released),
        ),
      ),
      h(
        "section",
        { class: "card" },
        h("div", { class: "bar" }, h("h3", {}, this.rangeWords(found.sessions)), this.pages(), found.sessions.length > 0 && openAll(sessions)),
        found.sessions.length ? legend() : this.nothing(),
        sessions,
        this.news,
      ),
    );
  }

  rangeWords(rows) {
    if (!rows.length) return "Sessions";
    const [first, last] = [rows[0].session_number, rows.at(-1).session_number];
    return `Sessions ${count(first)} to ${count(last)} of ${count(this.batch.session_counter)}`;
  }

  nothing() {
    const words = this.batch.session_counter ? `There are no sessions after number ${count(this.afterNumber)}.` : "No session has been registered in this batch.";
    return h("p", { class: "empty" }, words);
  }

  pages() {
    const counter = this.batch.session_counter;
    const latest = Math.max(0, counter - PAGE);
    const link = (words, target, possible) =>
      possible ? h("a", { class: "button", href: batchLink(this.id, target) }, words) : h("span", { class: "button off", "aria-disabled": "true" }, words);
    const number = h("input", { type: "number", min: 1, max: counter, "aria-label": "Number to go to", placeholder: "number", required: true });
    const go = (event) => {
      event.preventDefault();
      visit(batchLink(this.id, Math.max(0, number.valueAsNumber - 1)));
    };
    return h(
      "nav",
      { "aria-label": "Pages of the batch" },
      link("First", 0, this.afterNumber > 0),
      link("Previous", Math.max(0, Math.min(this.afterNumber, counter) - PAGE), this.afterNumber > 0),
      link("Next", this.lastNumber, this.lastNumber < counter),
      link("Latest", latest, this.afterNumber !== latest),
      h("form", { submit: go }, number, h("button", {}, "Go")),
    );
  }

  update(found) {
    if (!this.batch) return;
    const now = [found.collecting, ...found.batches].find((batch) => batch?.batch_id === this.id);
    if (now) this.take(now);
    else this.renew();
  }

  /** The overview has the newest batches only. */
  async renew() {
    if (performance.now() - this.renewedAt < RENEW_EVERY_MS) return;
    this.renewedAt = performance.now();
    const found = await ask("batch", { id: this.id, after_number: this.batch.session_counter, limit: 1 }).catch(() => null);
    if (found) this.take(found.batch);
  }

  take(now) {
    setText(this.size, count(now.session_counter));
    if (now.status !== this.batch.status) {
      this.state.replaceChildren(pill(now.status));
      this.released.replaceChildren(...releaseWords(now));
      this.batch = { ...this.batch, status: now.status };
    }
    const more = now.session_counter - this.batch.session_counter;
    if (more <= 0 || this.told === more) return;
    this.told = more;
    const latest = batchLink(this.id, Math.max(0, now.session_counter - PAGE));
    this.news.replaceChildren(h("a", { class: "button", href: latest }, `${counted(more, "new session")} since: show the latest`));
  }
}

const crumb = () => h("p", { class: "crumb" }, h("a", { href: "#" }, "All batches"));

const fact = (name, value) => h("div", {}, h("dt", {}, name), value);

function legend() {
  return h(
    "p",
    { class: "legend", "aria-hidden": "true" },
    "Each square is a result, in the order shown: ",
    h("span", { class: "cell clicked" }, "1"),
    " clicked, with the order of its first click ",
    h("span", { class: "cell other" }),
    " other events ",
    h("span", { class: "cell seen" }),
    " seen only ",
    h("span", { class: "cell" }),
    " no events",
  );
}

function openAll(sessions) {
  let open = false;
  const button = h("button", { class: "plain", click: () => {
    open = !open;
    for (const details of sessions.querySelectorAll("details")) details.open = open;
    setText(button, open ? "Close all" : "Open all");
  } }, "Open all");
  return button;
}

// --- one session ---------------------------------------------------------------------------------------------------

export class SessionView {
  constructor(id) {
    this.id = id;
    this.title = `Session ${id}`;
    this.element = h("div", {});
  }

  async load() {
    const row = await ask("session", { id: this.id });
    this.element.replaceChildren(h("p", { class: "crumb" }, h("a", { href: "#" }, "All batches"), " / ", h("a", { href: batchLink(row.batch_id, row.session_number - 1) }, row.batch_id)), ...sessionPage(row));
  }

  update() {}
}

/** Whether it is worth trying again. */
export const mayPass = (error) => error.status === 0 || error.status >= 500;

/** In place of a view that could not be loaded. */
export function troubleView(view, error) {
  const waits = mayPass(error);
  const notFound = error.status === 404;
  const fault = error.status === undefined;
  return h(
    "div",
    {},
    crumb(),
    h(
      "section",
      { class: "card" },
      h("h2", { tabindex: -1 }, notFound ? "Not found" : waits ? "Not now" : "That cannot be shown"),
      h("p", { id: "trouble" }, notFound ? [h("bdi", {}, view.title), " is not known here."] : fault ? `This page has a fault: ${error.message}` : error.message),
      h("p", { class: "quiet" }, waits ? "It is shown as soon as the answer comes." : notFound ? "Ids are compared to the letter. It may also not have been registered yet." : fault ? "Please report it." : "Look at the address: something in it is not right."),
    ),
  );
}
