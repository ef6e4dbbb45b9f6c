"use strict";

// Curves: a figure a metric, a line a group of runs.

const SECTIONS = { rollout: "Rollouts", eval: "Evaluation", train: "Training" };
const OPEN = ["rollout", "eval"];
const COLORS = 8;
const WIDTH = 320;
const HEIGHT = 150;
// Where the plot stands inside.
const LEFT = 46;
const RIGHT = WIDTH - 12;
const TOP = 8;
const BOTTOM = HEIGHT - 20;
const MOST_DOTS = 12; // A curve of more points has no dots.

/** Round numbers that span low to high, 0 among them if it is near. */
function ticks(low, high) {
  if (low > 0 && low < high / 2) low = 0;
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (size < 1e-300) [low, high] = [0, 1];
  else if (high - low < 1e-9 * size) {
    [low, high] = [Math.min(0, low), Math.max(0, high)];
  }
  const raw = (high - low) / 2;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * unit).find((k) => k >= raw);
  const start = Math.floor(low / step);
  const count = Math.ceil(high / step - 1e-9) - start + 1;
  return Array.from({ length: count }, (_, i) => (start + i) * step);
}

function tick(value) {
  const size = Math.abs(value);
  if (value && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(+value.toPrecision(4)).replace("-", MINUS);
}

/** Where rounds and values stand in the plot. */
function scales(points) {
  const at = [...new Set(points.map((p) => p[0]))].sort((a, b) => a - b);
  const [first, last] = [at[0], at[at.length - 1]];
  const marks = ticks(
    Math.min(...points.map((p) => p[2])),
    Math.max(...points.map((p) => p[3])),
  );
  const [low, high] = [marks[0], marks[marks.length - 1]];
  const x = (round) =>
    LEFT + ((RIGHT - LEFT) * (round - first)) / (last - first || 1);
  const y = (value) => TOP + ((BOTTOM - TOP) * (high - value)) / (high - low);
  return { at, marks, x, y };
}

function axes({ at, marks, x, y }) {
  const lines = marks.flatMap((value) => [
    svg("line", { x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 5, y: y(value) + 3.5, class: "end" }, tick(value)),
  ]);
  const ends = [...new Set([at[0], at[at.length - 1]])].map((round, i) => {
    const kind = i ? "end" : null;
    const attributes = { x: x(round), y: HEIGHT - 5, class: kind };
    return svg("text", attributes, short(round));
  });
  return [...lines, ...ends];
}

/** Band, line and dots of a group's curve. */
function drawing(curve, g, { x, y }) {
  const kind = `c${g % COLORS} g${g}`;
  const path = (pairs) =>
    pairs.map(([r, v]) => `${x(r).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  const parts = [];
  if (curve.some((p) => p[2] < p[3])) {
    const above = curve.map((p) => [p[0], p[3]]);
    const below = curve.map((p) => [p[0], p[2]]).reverse();
    const points = path([...above, ...below]);
    parts.push(svg("polygon", { class: kind, points }));
  }
  const line = curve.map((p) => [p[0], p[1]]);
  parts.push(svg("polyline", { class: kind, points: path(line) }));
  for (const [r, v] of line.length > MOST_DOTS ? [] : line) {
    parts.push(svg("circle", { class: kind, cx: x(r), cy: y(v), r: 2.2 }));
  }
  return parts;
}

/** A curve in words: where it starts and where it ends. */
function spoken(curve, name) {
  const [a, b] = [curve[0], curve[curve.length - 1]];
  const start = `${name}: ${band(a.slice(1))} at round ${a[0]}`;
  return a === b ? start : `${start}, ${band(b.slice(1))} at round ${b[0]}`;
}

function chart(name, series, groups) {
  const scale = scales(series.flatMap((curve) => curve ?? []));
  const there = series.map((curve, g) => [curve, g]).filter(([curve]) => curve);
  const said = there.map(([curve, g]) => spoken(curve, groups[g].name));
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: BOTTOM });
  const picture = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      tabindex: 0,
      "aria-label": `${name}. ${said.join(". ")}`,
    },
    ...axes(scale),
    ...there.flatMap(([curve, g]) => drawing(curve, g, scale)),
    cursor,
  );
  const values = el("p", { class: "values", "aria-live": "polite" });
  follow(picture, cursor, values, scale, (round) =>
    there.flatMap(([curve, g]) => {
      const point = curve.find((p) => p[0] === round);
      if (!point) return [];
      const title = groups.length > 1 ? `${groups[g].name} ` : "";
      return [
        el("span", { class: `g${g}` }, key(g), title + band(point.slice(1))),
      ];
    }),
  );
  return el("figure", {}, el("figcaption", {}, name), picture, values);
}

/** Shows the values under the pointer, or where the arrow keys lead. */
function follow(picture, cursor, values, { at, x }, found) {
  let place = -1;
  const show = (i) => {
    place = Math.max(0, Math.min(at.length - 1, i));
    cursor.setAttribute("x1", x(at[place]));
    cursor.setAttribute("x2", x(at[place]));
    values.replaceChildren(`round ${at[place]} `, ...found(at[place]));
    picture.classList.add("on");
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const where = ((event.clientX - box.left) / box.width) * WIDTH;
    const far = at.map((round) => Math.abs(x(round) - where));
    show(far.indexOf(Math.min(...far)));
  });
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(place < 0 ? (step > 0 ? 0 : at.length - 1) : place + step);
  });
}

/** The colour of a group. */
function key(g) {
  return el("span", { class: `key c${g % COLORS}` });
}

/** The sections of the curves. */
function curves(head) {
  const sections = new Map(Object.keys(SECTIONS).map((name) => [name, []]));
  for (const name of Object.keys(head.curves).sort()) {
    const start = name.split("/")[0];
    sections.set(start, [...(sections.get(start) ?? []), name]);
  }
  const full = [...sections].filter(([, names]) => names.length);
  return full.map(([section, names]) => {
    const figures = names.map((name) =>
      chart(name.replace(`${section}/`, ""), head.curves[name], head.groups),
    );
    return el(
      "details",
      { open: OPEN.includes(section) ? "" : null },
      el("summary", {}, `${SECTIONS[section] ?? section} (${names.length})`),
      el("div", { class: "figures" }, ...figures),
    );
  });
}

/** A box a group that shows or hides its curves; null for a single run. */
function legend(groups) {
  if (groups.length === 1 && groups[0].runs.length === 1) return null;
  const boxes = groups.map((group, g) => {
    const box = el("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      for (const part of document.querySelectorAll(`.g${g}`)) {
        part.classList.toggle("off", !box.checked);
      }
    });
    return el("label", {}, box, key(g), group.name);
  });
  const title = el("legend", {}, "Line: mean. Shade: least to most.");
  return el("fieldset", { class: "legend" }, title, ...boxes);
}
