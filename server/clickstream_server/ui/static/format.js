// Numbers, times and values as people read them.

import { h } from "./dom.js";

const NUMBER = new Intl.NumberFormat("en");
const DAY_AND_TIME = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export const count = (number) => NUMBER.format(number);

export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function rate(perSecond) {
  if (perSecond >= 100) return count(Math.round(perSecond));
  return perSecond === 0 ? "0" : perSecond.toFixed(perSecond >= 10 ? 1 : 2);
}

/** The moment in the viewer's zone; the exact one, in UTC, is its title. */
export function moment(text) {
  return h("time", { datetime: text, title: `${text} (UTC)` }, DAY_AND_TIME.format(new Date(text)));
}

export const timeOfDay = (text) => TIME.format(new Date(text));

/** How long after a moment another one was. */
export function after(begin, end) {
  const seconds = (new Date(end) - new Date(begin)) / 1000;
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? "−" : "+";
  if (size < 60) return `${sign}${size.toFixed(1)} s`;
  if (size < 3600) return `${sign}${Math.floor(size / 60)} min ${Math.floor(size % 60)} s`;
  if (size < 172800) return `${sign}${Math.floor(size / 3600)} h ${Math.floor((size % 3600) / 60)} min`;
  return `${sign}${count(Math.floor(size / 86400))} days`;
}

/** The text, cut where it is too long to look at. */
export const cut = (text, most) => (text.length > most ? `${Array.from(text.slice(0, most)).slice(0, -1).join("")} …` : text);

export const inOneLine = (value) => JSON.stringify(value);

export const isEmpty = (value) => value === null || value === undefined || Object.keys(value).length === 0;

/** Exact: the server sends amounts as text, and they stay text. */
export const money = (value) => `${value.amount} ${value.currency_code}`;

const ORDINAL = new Intl.PluralRules("en", { type: "ordinal" });
const ENDINGS = { one: "st", two: "nd", few: "rd", other: "th" };
export const ordinal = (number) => `${count(number)}${ENDINGS[ORDINAL.select(number)]}`;

export const times = (number) => (number === 1 ? "" : ` ${count(number)}×`);

const STATUSES = {
  COLLECTING: "collecting",
  RELEASED: "released",
  FINE_TUNING: "fine-tuning",
  COMPLETED: "completed",
  ARCHIVING: "archiving",
  ARCHIVED: "archived",
};
export const statusWord = (status) => STATUSES[status] ?? status;

export const batchLink = (id, after = 0) => `#batch/${encodeURIComponent(id)}${after ? `/after/${after}` : ""}`;

export const sessionLink = (id) => `#session/${encodeURIComponent(id)}`;
