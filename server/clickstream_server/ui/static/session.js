// A session: what was shown, and what was done with it, laid over each other.

import { h } from "./dom.js";
import {
  after, batchLink, count, counted, cut, inOneLine, isEmpty, moment, money, ordinal, sessionLink, times,
} from "./format.js";

const CLICK = "click";
/** Events that say that something was on the screen, not that anything was done with it. */
const SEEN = new Set(["impression", "view"]);
const STRIP_PLACES = 24;
const META_CHARACTERS = 240;
const QUERY_CHARACTERS = 4000;

/**
 * What was done to each result, to other objects, and to the session as a whole.
 * An object that was shown twice has its events at the first of its places.
 */
export function laidOver(row) {
  const results = (row.session.search_results ?? []).map((item, index) => ({ ...item, place: index + 1, ...nothingDone() }));
  const byId = new Map();
  for (const result of results) if (!byId.has(result.object_id)) byId.set(result.object_id, result);
  const elsewhere = new Map();
  const whole = { ...nothingDone() };
  let clicks = 0;
  for (const event of row.events) {
    const id = event.object_id;
    if (id && !byId.has(id) && !elsewhere.has(id)) elsewhere.set(id, { object_id: id, ...nothingDone() });
    const target = id ? (byId.get(id) ?? elsewhere.get(id)) : whole;
    if (event.event_type === CLICK) target.clicks.push((clicks += 1));
    else target.other.set(event.event_type, [...(target.other.get(event.event_type) ?? []), event]);
    if (event.event_type === CLICK && event.value) target.clickValues.push(event.value);
  }
  return { results, elsewhere: [...elsewhere.values()], whole, clicks };
}

const nothingDone = () => ({ clicks: [], clickValues: [], other: new Map() });
const acted = (target) => [...target.other.keys()].some((type) => !SEEN.has(type));
const kindOf = (target) => (target.clicks.length ? "clicked" : acted(target) ? "other" : target.other.size ? "seen" : "");
const touched = (target) => target.clicks.length > 0 || target.other.size > 0;

/** One line a session, which opens to its results. */
export function sessionItem(row, { open = false } = {}) {
  const over = laidOver(row);
  const body = h("div", { class: "session-body" });
  const details = h(
    "details",
    { class: row.session.is_irrelevant ? "session irrelevant" : "session", "data-number": row.session_number },
    h(
      "summary",
      {},
      h("span", { class: "number", title: `number ${row.session_number} of the batch` }, count(row.session_number)),
      h("span", { class: "query-line" }, queryInLine(row.session.search_query), badges(row.session)),
      strip(over),
      h("span", { class: "did" }, inWords(over, row)),
      h("span", { class: "when" }, moment(row.session.created_at)),
    ),
    body,
  );
  const fill = () => {
    if (!details.open || body.childElementCount) return;
    body.append(
      ...overlay(over, row, 10),
      h("p", { class: "more" }, h("a", { href: sessionLink(row.session.session_id) }, "All about session ", h("code", {}, cut(row.session.session_id, 80)))),
    );
  };
  details.addEventListener("toggle", fill);
  details.open = open;
  fill();
  return details;
}

function queryInLine(query) {
  if (query === null || query === undefined) return h("span", { class: "query none" }, "no query");
  if (typeof query === "string" && !query.trim()) return h("span", { class: "query none" }, blank(query));
  if (typeof query === "string") return h("span", { class: "query", dir: "auto" }, cut(query, 300));
  return h("code", { class: "query structured" }, cut(inOneLine(query), 300));
}

/** In the place of a text of which nothing would be seen. */
const blank = (query) => (query ? "blank query" : "empty query");

function badges(session) {
  return [
    session.is_irrelevant && h("span", { class: "badge warn" }, "irrelevant"),
    session.is_payload_search && h("span", { class: "badge" }, "payload search"),
  ];
}

/** The list of results as a row of places, the clicked ones with the order of their clicks. */
function strip(over) {
  const shown = over.results.slice(0, STRIP_PLACES);
  const cells = shown.map((result) => {
    const first = result.clicks[0];
    return h("span", { class: `cell ${kindOf(result)}`, title: `place ${result.place}: ${doneInWords(result) || "no events"}` }, first ? String(first) : "");
  });
  const more = over.results.length - shown.length;
  return h(
    "span",
    { class: "strip", role: "img", "aria-label": stripInWords(over) },
    cells,
    more > 0 && h("span", { class: "strip-more" }, `+${count(more)}`),
  );
}

function stripInWords(over) {
  const clicked = over.results.filter((result) => result.clicks.length);
  const places = clicked.sort((one, other) => one.clicks[0] - other.clicks[0]).map((result) => count(result.place));
  return `${counted(over.results.length, "result")}${places.length ? `, clicked at place ${places.join(", then ")}` : ""}`;
}

function inWords(over, row) {
  const types = new Map();
  for (const event of row.events) if (event.event_type !== CLICK) types.set(event.event_type, (types.get(event.event_type) ?? 0) + 1);
  const parts = over.clicks ? [counted(over.clicks, "click")] : [];
  for (const [type, number] of types) parts.push(`${cut(type, 24)}${times(number)}`);
  for (const total of row.totals) parts.push(money(total));
  const left = row.event_count - row.events.length;
  if (left > 0) parts.push(`${counted(left, "more event")}`);
  return parts.length ? parts.map((part, place) => [place > 0 && " · ", h("bdi", {}, part)]) : "no events";
}

const doneInWords = (target) =>
  [
    target.clicks.length ? `clicked${times(target.clicks.length)} (${target.clicks.map(ordinal).join(", ")})` : "",
    ...[...target.other].map(([type, events]) => `${cut(type, 64)}${times(events.length)}`),
  ].filter(Boolean).join(", ");

// --- results with what was done ------------------------------------------------------------------------------------

/** The results in the order in which they were shown, then everything else that was done. */
export function overlay(over, row, firstPlaces) {
  const parts = [];
  if (over.results.length) parts.push(resultList(over.results, firstPlaces));
  else parts.push(h("p", { class: "quiet" }, "No results were recorded with this search."));
  if (over.elsewhere.length) {
    parts.push(
      h("h4", {}, over.results.length ? "Not among the results, but acted on" : "What was acted on"),
      h("ul", { class: "results" }, over.elsewhere.map((target) => resultRow(target, ""))),
    );
  }
  if (touched(over.whole)) {
    parts.push(h("h4", {}, "About the search as a whole"), h("p", { class: "chips" }, chips(over.whole)));
  }
  if (row.event_count > row.events.length) {
    parts.push(h("p", { class: "quiet" }, `The first ${count(row.events.length)} of ${counted(row.event_count, "event")} are laid over here.`));
  }
  return parts;
}

function resultList(results, firstPlaces) {
  const list = h("ol", { class: "results" });
  const fill = (all) => {
    const rows = [];
    let left = 0;
    const gap = () => {
      if (left) rows.push(h("li", { class: "gap" }, `${counted(left, "more result")}, no events`));
      left = 0;
    };
    for (const result of results) {
      if (all || result.place <= firstPlaces || touched(result)) {
        gap();
        rows.push(resultRow(result, String(result.place)));
      } else left += 1;
    }
    const hidden = left;
    gap();
    list.replaceChildren(...rows);
    return hidden || rows.some((found) => found.className === "gap");
  };
  if (!fill(false)) return list;
  const button = h("button", { class: "plain", click: () => { fill(true); button.remove(); } }, `Show all ${count(results.length)} results`);
  return h("div", {}, list, button);
}

function resultRow(target, place) {
  return h(
    "li",
    { class: kindOf(target) },
    h("span", { class: "place" }, place),
    h("span", { class: "clicks" }, target.clicks.length ? clickMarks(target) : ""),
    h(
      "span",
      { class: "object" },
      h("code", { dir: "auto" }, target.object_id),
      target.rank !== undefined && h("span", { class: "quiet" }, ` rank ${target.rank}`),
      !isEmpty(target.meta) && h("span", { class: "meta" }, cut(inOneLine(target.meta), META_CHARACTERS)),
    ),
    h("span", { class: "chips" }, chips(target)),
  );
}

/** How often and in which order: the numbers count the session's clicks. */
function clickMarks(target) {
  const shown = target.clicks.slice(0, 6);
  return [
    shown.map((order) => [h("span", { class: "mark", title: `the ${ordinal(order)} click of this session` }, String(order)), " "]),
    h("span", { class: "click-words" }, `clicked${times(target.clicks.length)}`),
    target.clickValues.map((value) => [" ", h("span", { class: "money" }, money(value))]),
  ];
}

function chips(target) {
  return [...target.other].map(([type, events]) => {
    const values = events.filter((event) => event.value).map((event) => money(event.value));
    const more = values.length > 5 ? ` and ${count(values.length - 5)} more` : "";
    return h(
      "span",
      { class: values.length ? "chip paid" : SEEN.has(type) ? "chip seen" : "chip" },
      h("span", { dir: "auto" }, type),
      times(events.length),
      values.length > 0 && h("span", { class: "money" }, ` ${values.slice(0, 5).join(", ")}${more}`),
    );
  });
}

// --- a session by itself -------------------------------------------------------------------------------------------

export function sessionPage(row) {
  const session = row.session;
  const over = laidOver(row);
  return [
    h(
      "section",
      { class: session.is_irrelevant ? "card irrelevant" : "card" },
      h("p", { class: "eyebrow" }, "Searched for ", badges(session)),
      queryTitle(session.search_query),
      facts(row),
    ),
    h(
      "section",
      { class: "card" },
      h("h3", {}, "Results and clicks", h("span", { class: "quiet" }, " ", inWords(over, row))),
      ...overlay(over, row, 50),
    ),
    timeline(row, over),
    beside(session),
  ].filter(Boolean);
}

function queryTitle(query) {
  if (query === null || query === undefined) return h("h2", { tabindex: -1 }, "no query");
  if (typeof query === "object") return [h("h2", { tabindex: -1, class: "unseen" }, "A structured query"), jsonBlock(query)];
  if (!query.trim()) return h("h2", { tabindex: -1 }, blank(query));
  const kind = query.length > 200 ? "query-title long" : "query-title";
  return h("h2", { tabindex: -1, dir: "auto", class: kind }, cut(query, QUERY_CHARACTERS));
}

function facts(row) {
  const session = row.session;
  const pairs = [
    ["Session", h("code", { dir: "auto" }, session.session_id)],
    ["Place", [`number ${count(row.session_number)} in `, h("a", { href: batchLink(row.batch_id, row.session_number - 1) }, row.batch_id)]],
    ["Searched", moment(session.created_at)],
    ["Registered", moment(row.registered_at)],
    session.user_id !== undefined && ["User", h("code", { dir: "auto" }, session.user_id)],
    session.sort_by && [
      "Sorted by",
      [h("code", { dir: "auto" }, session.sort_by.field || "—"), session.sort_by.order === "DESC" ? " descending" : " ascending", session.sort_by.force_not_payload ? ", not the payload" : ""],
    ],
    row.totals.length > 0 && ["Value", row.totals.map(money).join(" + ") + (row.event_count > row.events.length ? " in the events shown" : "")],
  ];
  return factList(pairs);
}

/** What the search was sent with, which may be long. */
function beside(session) {
  const pairs = [
    !isEmpty(session.payload_filter) && ["Payload filter", json(session.payload_filter)],
    !isEmpty(session.search_meta) && ["Meta", json(session.search_meta)],
  ];
  return pairs.some(Boolean) && h("section", { class: "card" }, h("h3", {}, "Sent with the search"), factList(pairs));
}

function factList(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

const json = (value) => (inOneLine(value).length <= 100 ? h("code", {}, inOneLine(value)) : jsonBlock(value));
const jsonBlock = (value) => h("pre", { tabindex: 0, dir: "ltr" }, cut(JSON.stringify(value, null, 2), 20000));

function timeline(row, over) {
  if (!row.events.length) return h("section", { class: "card" }, h("h3", {}, "Events"), h("p", { class: "quiet" }, "None so far. Events may come at any time, also after the batch was released."));
  const places = new Map([...over.results].reverse().map((result) => [result.object_id, result.place]));
  const all = row.event_count === row.events.length;
  return h(
    "section",
    { class: "card" },
    h("h3", {}, "Events in their order", h("span", { class: "quiet" }, all ? ` ${counted(row.event_count, "event")}` : ` the first ${count(row.events.length)} of ${count(row.event_count)}`)),
    h(
      "div",
      { class: "scroll", tabindex: 0 },
      h(
        "table",
        { class: "events" },
        h("thead", {}, h("tr", {}, ["after the search", "what", "object", "place", "value", "meta"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, row.events.map((event) => eventRow(event, row, places))),
      ),
    ),
  );
}

function eventRow(event, row, places) {
  const place = places.get(event.object_id);
  return h(
    "tr",
    { class: event.event_type === CLICK ? "clicked" : "" },
    h("td", { title: `${event.created_at} (UTC)`, class: "figure" }, after(row.session.created_at, event.created_at)),
    h("td", { dir: "auto" }, event.event_type),
    h("td", {}, event.object_id ? h("code", { dir: "auto" }, event.object_id) : h("span", { class: "quiet" }, "the whole search")),
    h("td", { class: "figure" }, place ? count(place) : ""),
    h("td", { class: "figure" }, event.value ? money(event.value) : ""),
    h("td", { class: "meta" }, isEmpty(event.meta) ? "" : folded(event.meta)),
  );
}

/** One line of it, which opens to all. */
function folded(value) {
  const details = h("details", {}, h("summary", {}, cut(inOneLine(value), 160)));
  details.addEventListener("toggle", () => { if (details.childElementCount === 1) details.append(jsonBlock(value)); });
  return details;
}
