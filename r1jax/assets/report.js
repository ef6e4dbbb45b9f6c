"use strict";

// The page: what is shared, and the tables about the runs. All text of a run
// enters the page as text nodes, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const MINUS = "\u2212";

/** The value of a data block: base64 of gzip of JSON. */
async function unpack(block) {
  const bytes = Uint8Array.from(atob(block.textContent), (c) =>
    c.charCodeAt(0),
  );
  block.remove();
  const plain = new Blob([bytes])
    .stream()
    .pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).json();
}

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** An element; children that are strings become text. */
function el(tag, attributes = {}, ...children) {
  return make(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return make(document.createElementNS(SVG, tag), attributes, children);
}

function isNumber(x) {
  return typeof x === "number";
}

/** A number in few digits, or a dash. */
function short(x, digits = 3) {
  if (!isNumber(x)) return "–";
  const text = Number.isInteger(x) ? String(x) : shorter(x, digits);
  return text.replace("-", MINUS);
}

function shorter(x, digits) {
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) {
    return x.toExponential(digits - 1);
  }
  return size < 1 ? x.toFixed(digits) : String(+x.toPrecision(digits + 1));
}

/** `mean (least to most)` of [mean, least, most, runs]. */
function band([mean, low, high]) {
  const range = low < high ? ` (${short(low)} to ${short(high)})` : "";
  return short(mean) + range;
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

// Runs

const SUMMARY = [
  ["job", "config.job"],
  ["seed", "config.seed"],
  ["parameters", "parameters"],
  ["weights at the start", "initial_digest"],
  ["weights at the end", "final_digests.params"],
  ["r1jax", "machine.r1jax"],
  ["commit", "machine.commit"],
  ["jax", "machine.jax"],
  ["device", "machine.device"],
];

function rounds(run) {
  const wanted = run.card["config.rounds"];
  if (isNumber(wanted)) return `${run.rounds} of ${wanted}`;
  return String(run.rounds);
}

function summary(head) {
  const columns = SUMMARY.filter(([, key]) =>
    head.runs.some((run) => key in run.card),
  );
  const shown = (run, key) => {
    if (!(key in run.card)) return "";
    const value = text(run.card[key]);
    return key === "machine.commit" ? value.slice(0, 9) : value;
  };
  const rows = head.runs.map((run) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, run.name),
      el("td", {}, rounds(run)),
      ...columns.map(([, key]) => el("td", {}, shown(run, key))),
    ),
  );
  const names = ["run", "rounds", ...columns.map(([name]) => name)];
  return tableOf(names, rows, "Runs");
}

function tableOf(names, rows, label) {
  const cells = names.map((name) => el("th", { scope: "col" }, name));
  const heads = el("thead", {}, el("tr", {}, ...cells));
  return scroller(
    label,
    el("table", {}, heads, el("tbody", {}, ...rows)),
  );
}

/** What may be wider than the page, reachable by keyboard. */
function scroller(label, child) {
  const attributes = { class: "wide", tabindex: 0, role: "group" };
  return el("div", { ...attributes, "aria-label": label }, child);
}

/** run.json of a group: a line a field, once where its runs agree. */
function card(group, runs) {
  const fields = [...new Set(runs.flatMap((run) => Object.keys(run.card)))];
  const rows = fields.map((field) => {
    const values = runs.map((run) => text(run.card[field] ?? null));
    const cells = values.every((value) => value === values[0])
      ? [el("td", { colspan: runs.length }, values[0])]
      : values.map((value) => el("td", {}, value));
    return el("tr", {}, el("th", { scope: "row" }, field), ...cells);
  });
  return el(
    "details",
    {},
    el("summary", {}, `Config, versions and digests: ${group.name}`),
    tableOf(["field", ...runs.map((run) => run.name)], rows, group.name),
  );
}

// Evaluation

/** When a row was measured, in words. */
function moment(head, row) {
  const run = head.runs[head.groups[row.group].runs[0]];
  if (run.card["config.job"] === "evaluate") return "evaluated";
  return row.round < 0 ? "start" : `after round ${row.round}`;
}

function stages(head) {
  const suites = new Map();
  for (const [suite] of head.columns) {
    suites.set(suite, (suites.get(suite) ?? 0) + 1);
  }
  const wide = [...suites].map(([suite, count]) =>
    el("th", { scope: "colgroup", colspan: count }, suite),
  );
  const names = head.columns.map(([, name]) =>
    el("th", { scope: "col" }, name),
  );
  const rows = head.table.map((row) => {
    const between = !row.first && !row.last;
    const name = head.groups[row.group].name;
    return el(
      "tr",
      { class: between ? "between" : null },
      el("th", { scope: "row" }, name, el("small", {}, moment(head, row))),
      ...row.cells.map((cell) => {
        if (cell === null) return el("td", {}, "–");
        const [value, range] = band(cell).split(/(?= \()/);
        return el("td", {}, value, el("small", {}, range ?? ""));
      }),
    );
  });
  const corner = el("th", { scope: "col", rowspan: 2 }, "weights");
  return el(
    "table",
    { class: "stages" },
    el("thead", {}, el("tr", {}, corner, ...wide), el("tr", {}, ...names)),
    el("tbody", {}, ...rows),
  );
}

// The page

function fill(id, children, otherwise) {
  const section = document.getElementById(id);
  section.append(...(children.length ? children : [el("p", {}, otherwise)]));
  return section;
}

async function start() {
  const head = await unpack(document.querySelector("script.head"));
  document.querySelector("header").append(el("h1", {}, head.title));
  if (head.notes.length) {
    const items = head.notes.map((note) => el("li", {}, note));
    fill("notes", [el("ul", {}, ...items)]).hidden = false;
  }
  const cards = head.groups.map((group) =>
    card(group, group.runs.map((i) => head.runs[i])),
  );
  fill("runs", [summary(head), ...cards]);
  const seen = head.table.length ? [everyRow(head)] : [];
  fill("stages", seen, "Nothing was evaluated yet.");
  const drawn = curves(head);
  const keys = drawn.length ? legend(head.groups) : null;
  fill("curves", keys ? [keys, ...drawn] : drawn, "No round is finished yet.");
  await startRollouts(head);
}

/** The evaluation table, with a box for the rows between first and last. */
function everyRow(head) {
  const wide = scroller("Evaluation", stages(head));
  const hidden = head.table.filter((row) => !row.first && !row.last).length;
  if (!hidden) return wide;
  const box = el("input", { type: "checkbox" });
  box.addEventListener("change", () =>
    wide.classList.toggle("every", box.checked),
  );
  const label = el("label", {}, box, `Every evaluation, ${hidden} more`);
  return el("div", {}, label, wide);
}

start().catch((error) => {
  const says = `This report cannot be shown: ${error}`;
  document.querySelector("header").append(el("p", { role: "alert" }, says));
});
