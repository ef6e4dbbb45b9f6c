"use strict";

// Filters of the rollouts: each is a node of the form and a function that
// gives a test of a row, or null where nothing is asked.

const STATUSES = ["ok", "failed", "timeout", "not ok"];

/** What is searched, in small letters. */
function haystack(row) {
  const reasons = Object.values(row.rewards).map((r) => String(r.reason));
  const all = [row.question, row.prompt, row.response, ...reasons];
  return all.join("\n").toLowerCase();
}

function labelled(name, control, kind = null) {
  return el("label", { class: kind }, name, control);
}

/** A select of [value, name] pairs. */
function select(choices, label = null) {
  const options = choices.map(([value, name]) => el("option", { value }, name));
  return el("select", { "aria-label": label }, ...options);
}

function anyOr(values) {
  return [["", "any"], ...values.map((value) => [value, value])];
}

/** Rows whose text has what is typed, in any case. */
function textFilter(name, find) {
  const control = el("input", { type: "search", autocomplete: "off" });
  const test = () => {
    const wanted = control.value.toLowerCase();
    return wanted ? (row) => find(row).includes(wanted) : null;
  };
  return { node: labelled(name, control, "grow"), test };
}

/** Rows with one of the values that there are; hidden where there is one. */
function choiceFilter(name, rows, find) {
  const values = [...new Set(rows.map(find))];
  const control = select(anyOr(values));
  const test = () => {
    const wanted = control.value;
    return wanted ? (row) => find(row) === wanted : null;
  };
  const node = labelled(name, control);
  node.hidden = values.length < 2;
  return { node, test };
}

/** A line of the table of ranges: a number's least and most. */
function rangeFilter(name, find, more = []) {
  const input = (end) => {
    const label = `${end} ${name}`;
    return el("input", { type: "number", step: "any", "aria-label": label });
  };
  const [least, most] = [input("least"), input("most")];
  const test = () => {
    if (least.value === "" && most.value === "") return null;
    const low = least.value === "" ? -Infinity : Number(least.value);
    const high = most.value === "" ? Infinity : Number(most.value);
    return (row) => find(row) >= low && find(row) <= high;
  };
  const cells = [[least], [most], more].map((c) => el("td", {}, ...c));
  const title = el("th", { scope: "row" }, name);
  return { node: el("tr", {}, title, ...cells), test };
}

function statusFilter(reward) {
  const control = select(anyOr(STATUSES), `status of ${reward}`);
  const test = () => {
    const wanted = control.value;
    if (!wanted) return null;
    const find = (row) => row.rewards[reward]?.status;
    if (wanted !== "not ok") return (row) => find(row) === wanted;
    return (row) => ![undefined, "ok"].includes(find(row));
  };
  return { node: control, test };
}

/** Name to function: the numbers of a row, to range over and to sort by. */
function numbers(rewards) {
  // What is no number becomes undefined: outside every range, sorted last.
  const number = (x) => (isNumber(x) ? x : undefined);
  const plain = ["round", "tokens", "reward", "advantage"].map((name) => [
    name,
    (row) => number(row[name]),
  ]);
  const each = rewards.map((name) => [
    `reward: ${name}`,
    (row) => number(row.rewards[name]?.value),
  ]);
  return new Map([...plain, ...each]);
}

/** Sorts rows by a number; ties, and those without one, in their order. */
function sorted(rows, find, sign) {
  const there = rows.filter((row) => find(row) !== undefined);
  const without = rows.filter((row) => find(row) === undefined);
  there.sort((a, b) => sign * (find(a) - find(b)));
  return [...there, ...without];
}

function sorter(table) {
  const orders = [...table.keys()].flatMap((name) => [
    [`${name} 1`, `${name}, least first`],
    [`${name} -1`, `${name}, most first`],
  ]);
  const control = select([["", "as written"], ...orders]);
  const sort = (rows) => {
    const [, name, sign] = control.value.match(/^(.*) (-?1)$/) ?? [];
    return name ? sorted(rows, table.get(name), Number(sign)) : rows;
  };
  return { node: labelled("Sort", control), sort };
}

/** A table of ranges, with the status of each reward. */
function ranges(table, rewards) {
  const statuses = rewards.map(statusFilter);
  const lines = [...table].map(([name, find]) => {
    const i = rewards.findIndex((reward) => name === `reward: ${reward}`);
    return rangeFilter(name, find, i < 0 ? [] : [statuses[i].node]);
  });
  const names = ["", "least", "most", "status"];
  const nodes = lines.map((each) => each.node);
  const title = "Ranges, and the status of each reward";
  const node = el(
    "details",
    {},
    el("summary", {}, title),
    tableOf(names, nodes, title),
  );
  return { node, tests: [...lines, ...statuses] };
}

/** The form; `apply` gives the rows that are asked for, in order. */
function filters(head, rows, places) {
  const rewards = [...new Set(rows.flatMap((row) => Object.keys(row.rewards)))];
  const names = head.runs.map((run) => run.name);
  const table = numbers(rewards);
  const beside = el("input", { type: "checkbox" });
  const chosen = [
    textFilter("Text", (row) => row.hay),
    textFilter("Question id", (row) => row.key),
    choiceFilter("Languages", rows, (row) => (row.mixed ? "mixed" : "one")),
    choiceFilter("Finish", rows, (row) => String(row.finish_reason ?? "–")),
    choiceFilter("Run", rows, (row) => names[row.run]),
  ];
  const order = sorter(table);
  const more = ranges(table, rewards);
  const again = (row) => places.get(row.question).length > 1;
  const all = [...chosen, ...more.tests];
  all.push({ test: () => (beside.checked ? again : null) });
  const apply = (rows) => {
    const tests = all.map((each) => each.test()).filter((test) => test);
    return order.sort(rows.filter((row) => tests.every((test) => test(row))));
  };
  const title =
    "Before and after: questions of more than one round or run, side by side";
  const node = el(
    "form",
    { "aria-label": "Filter of the rollouts" },
    el("div", { class: "line" }, ...chosen.map((f) => f.node), order.node),
    more.node,
    el(
      "div",
      { class: "line" },
      el("label", { class: "box" }, beside, title),
      el("button", { type: "reset" }, "Show all"),
    ),
  );
  return { node, apply, beside };
}
