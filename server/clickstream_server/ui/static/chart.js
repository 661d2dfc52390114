// The rate of the last five minutes.

import { h, setText, svg } from "./dom.js";
import { count, rate } from "./format.js";

const WINDOW_S = 300;
const WIDTH = 600;
const HEIGHT = 120;
/** Over longer spans nobody looked: what is known of them is their mean. */
const LOOK_S_MAX = 10;

export class RateChart {
  constructor() {
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.meanArea = svg("path", { class: "area mean" });
    this.mean = svg("path", { class: "line mean" });
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "grid", d: `M0 ${HEIGHT / 2}H${WIDTH}M0 0.5H${WIDTH}` }),
      this.area,
      this.meanArea,
      this.mean,
      this.line,
    );
    this.top = h("span", { class: "y top-value" });
    this.middle = h("span", { class: "y middle-value" });
    this.element = h(
      "figure",
      { class: "chart" },
      h("div", { class: "plot" }, this.picture, this.top, this.middle),
      h("figcaption", {}, h("span", {}, "5 minutes ago"), h("span", {}, "sessions per second"), h("span", {}, "now")),
    );
  }

  update(samples) {
    const steps = samples.map(([begin, end, sessions]) => ({
      from: WIDTH * (1 - Math.min(begin, WINDOW_S) / WINDOW_S),
      to: WIDTH * (1 - end / WINDOW_S),
      seen: begin - end <= LOOK_S_MAX,
      rate: begin > end ? sessions / (begin - end) : 0,
    }));
    const most = Math.max(0, ...steps.map((step) => step.rate));
    const scale = niceAbove(most);
    const y = (value) => (HEIGHT - 1 - (value / scale) * (HEIGHT - 2)).toFixed(1);
    const line = (step, place, all) => {
      const joined = place > 0 && all[place - 1].to.toFixed(1) === step.from.toFixed(1);
      return `${joined ? "V" : `M${step.from.toFixed(1)} `}${y(step.rate)}H${step.to.toFixed(1)}`;
    };
    const area = (step) => `M${step.from.toFixed(1)} ${HEIGHT}V${y(step.rate)}H${step.to.toFixed(1)}V${HEIGHT}Z`;
    const draw = (path, of, seen) => path.setAttribute("d", steps.filter((step) => step.seen === seen).map(of).join(""));
    draw(this.line, line, true);
    draw(this.area, area, true);
    draw(this.mean, line, false);
    draw(this.meanArea, area, false);
    setText(this.top, count(scale));
    setText(this.middle, count(scale / 2));
    this.picture.setAttribute("aria-label", `Sessions per second over the last five minutes: at most ${rate(most)}.`);
  }
}

/** The next of 1, 2, 5, 10, 20, 50 … so that the scale does not jump with every sample. */
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
