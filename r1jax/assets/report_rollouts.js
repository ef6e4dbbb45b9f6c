"use strict";

// Rollouts: a list of which only the rows in sight exist, and the chosen
// rollout, alone or beside another one of its question.

const ROW_PIXELS = 46;
const SPARE_ROWS = 6; // Above and below what is in sight.
const SNIPPET_CHARS = 160;
const THINK_END = "</think>";
// What is shown as a mark, for it has no ink or turns the text around: control
// and format characters, line separators, halves of surrogate pairs. Tags of
// the recipe are set apart.
const SPECIAL =
  /<\/?(?:think|answer)>|[\0-\x08\x0b-\x1f\x7f-\x9f\p{Cf}\p{Cs}\u2028\u2029]/gu;

/** Appends a model's text: as text, what cannot be seen as a mark. */
function write(node, content) {
  let at = 0;
  for (const found of content.matchAll(SPECIAL)) {
    node.append(content.slice(at, found.index));
    at = found.index + found[0].length;
    if (found[0].length > 2) {
      node.append(el("span", { class: "tag" }, found[0]));
    } else {
      const code = found[0].codePointAt(0).toString(16).toUpperCase();
      const name = `U+${code.padStart(4, "0")}`;
      node.append(el("span", { class: "odd", title: name }, name));
    }
  }
  node.append(content.slice(at));
  return node;
}

/** [thoughts, answer] of a response; null for what it has not. */
function parts(row, prefilled) {
  const end = row.response.lastIndexOf(THINK_END);
  if (end >= 0) {
    const rest = end + THINK_END.length;
    return [row.response.slice(0, rest), row.response.slice(rest)];
  }
  const thinks = prefilled || row.response.includes("<think>");
  return thinks ? [row.response, null] : [null, row.response];
}

// The list

/** A listbox over any number of rows; calls choose(row) for the active one. */
function listbox(line, choose) {
  const space = el("div", { class: "space" });
  const node = el(
    "div",
    { class: "list", role: "listbox", tabindex: 0, "aria-label": "Rollouts" },
    space,
  );
  let rows = [];
  let active = -1;
  const draw = () => {
    const count = Math.ceil(node.clientHeight / ROW_PIXELS) + 2 * SPARE_ROWS;
    const top = Math.floor(node.scrollTop / ROW_PIXELS) - SPARE_ROWS;
    const first = Math.max(0, top);
    const seen = rows.slice(first, first + count).map((row, k) => {
      const i = first + k;
      const option = el("div", {
        class: "row",
        role: "option",
        id: `row${i}`,
        "aria-selected": i === active,
        "aria-posinset": i + 1,
        "aria-setsize": rows.length,
      });
      option.style.top = `${i * ROW_PIXELS}px`;
      option.append(...line(row));
      option.addEventListener("click", () => go(i));
      return option;
    });
    space.replaceChildren(...seen);
  };
  const go = (i) => {
    active = Math.max(0, Math.min(rows.length - 1, i));
    const [above, below] = [active, active + 1].map((k) => k * ROW_PIXELS);
    if (above < node.scrollTop) node.scrollTop = above;
    if (below > node.scrollTop + node.clientHeight) {
      node.scrollTop = below - node.clientHeight;
    }
    draw();
    node.setAttribute("aria-activedescendant", `row${active}`);
    choose(rows[active]);
  };
  const set = (wanted) => {
    rows = wanted;
    active = -1;
    space.style.height = `${rows.length * ROW_PIXELS}px`;
    node.scrollTop = 0;
    node.removeAttribute("aria-activedescendant");
    draw();
  };
  node.addEventListener("scroll", () => requestAnimationFrame(draw));
  new ResizeObserver(draw).observe(node);
  node.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(node.clientHeight / ROW_PIXELS) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    steps.Home = -rows.length;
    steps.End = rows.length;
    const step = steps[event.key];
    if (!step || !rows.length) return;
    event.preventDefault();
    go(active < 0 && step > 0 && event.key !== "End" ? 0 : active + step);
  });
  return { node, set, go };
}

function rewardName(row) {
  return isNumber(row.reward) ? `reward ${short(row.reward)}` : "";
}

/** What a row of the list shows. */
function line(head, row) {
  const tail = row.response.slice(-SNIPPET_CHARS);
  const snippet = tail.replace(/<\/?(?:think|answer)>|\s+/g, " ");
  const flags = [];
  if (row.mixed) flags.push("mixed");
  const end = row.finish_reason ?? "eos";
  if (end !== "eos") flags.push(end);
  for (const [name, reward] of Object.entries(row.rewards)) {
    if (reward.status && reward.status !== "ok") {
      flags.push(`${name} ${reward.status}`);
    }
  }
  const where = head.runs.length > 1 ? `${head.runs[row.run].name}, ` : "";
  return [
    write(el("span", { class: "prompt" }), row.prompt.slice(0, SNIPPET_CHARS)),
    el("span", { class: "reward" }, rewardName(row)),
    el("span", { class: "where" }, `${where}round ${row.round}`),
    write(el("span", { class: "tail" }), snippet),
    el("span", { class: "flags" }, flags.join(", ")),
    el("span", { class: "tokens" }, `${short(row.tokens)} tokens`),
  ];
}

// A rollout

function block(title, content, otherwise) {
  const body =
    content === null
      ? el("p", { class: "none" }, otherwise)
      : write(el("pre", { dir: "auto" }), content);
  return el("section", {}, el("h4", {}, title), body);
}

function rewardTable(row) {
  const rows = Object.entries(row.rewards).map(([name, reward]) => {
    const bad = reward.status !== "ok";
    return el(
      "tr",
      { class: bad ? "bad" : null },
      el("th", { scope: "row" }, name),
      el("td", {}, short(reward.value)),
      el("td", {}, String(reward.status)),
      write(el("td", {}), String(reward.reason)),
    );
  });
  return tableOf(["reward", "value", "status", "reason"], rows, "Rewards");
}

const APART = ["response", "original", "rewards", "prompt", "run"];
const SEARCHED = ["hay", "key"];

/** The rollout, below controls that lead to the others of its question. */
function rollout(head, row, places, choose) {
  const here = places.get(row.question);
  const at = here.findIndex((p) => p.run === row.run && p.round === row.round);
  const title = (place) => {
    const run = head.runs.length > 1 ? `${head.runs[place.run].name}, ` : "";
    return `${run}round ${place.round}`;
  };
  const place = select(
    here.map((p, i) => [i, title(p)]),
    "Round",
  );
  const group = here[at].rows;
  const sample = select(
    group.map((r, i) => [i, sampleName(r)]),
    "Sample",
  );
  place.value = at;
  sample.value = group.indexOf(row);
  place.addEventListener("change", () => {
    choose(like(here[place.value].rows, row), "Round");
  });
  sample.addEventListener("change", () =>
    choose(group[sample.value], "Sample"),
  );
  const facts = Object.entries(row)
    .filter(([name]) => ![...APART, ...SEARCHED].includes(name))
    .map(([name, value]) => {
      const shown = isNumber(value) ? short(value) : text(value);
      return el("div", {}, el("dt", {}, name), write(el("dd", {}), shown));
    });
  const [thoughts, answer] = parts(row, head.runs[row.run].prefilled);
  return el(
    "article",
    { "aria-label": `Rollout, ${title(row)}` },
    el("div", { class: "line" }, place, sample),
    block("Question", row.prompt, ""),
    block("Thoughts", thoughts, "None."),
    block("Answer", answer, "None: the thoughts do not end."),
    ...(typeof row.original === "string"
      ? [block("Before it was refined", row.original, "")]
      : []),
    rewardTable(row),
    el("dl", {}, ...facts),
  );
}

function sampleName(row) {
  const name = `sample ${text(row.sample ?? row.id ?? 0)}`;
  return [name, rewardName(row)].filter((part) => part).join(", ");
}

/** The row of the same sample, or the first. */
function like(rows, row) {
  return rows.find((other) => other.sample === row.sample) ?? rows[0];
}

// The section

/** The rows of all blocks, as the filters want them. */
async function read(head, status) {
  const rows = [];
  for (const block of document.querySelectorAll("script.rollouts")) {
    for (const row of await unpack(block)) {
      row.prompt = typeof row.prompt === "string" ? row.prompt : "";
      row.key = row.question.toLowerCase();
      row.hay = haystack(row);
      rows.push(row);
    }
    status.textContent = `Reading: ${rows.length} of ${head.rollouts}.`;
  }
  return rows;
}

/** Question id to where it was asked: runs and rounds in order, their rows. */
function placesOf(rows) {
  const places = new Map();
  for (const row of rows) {
    const here = places.get(row.question) ?? [];
    if (!here.length) places.set(row.question, here);
    const { run, round } = row;
    let place = here.findLast((p) => p.run === run && p.round === round);
    if (!place) here.push((place = { run, round, rows: [] }));
    place.rows.push(row);
  }
  return places;
}

/** A row and its counterpart, the earlier first: what was asked first
    beside it, or what was asked last beside that. */
function pairOf(row, places) {
  const here = places.get(row.question);
  const [first, last] = [here[0], here[here.length - 1]];
  if (first.rows.includes(row)) return [row, like(last.rows, row)];
  return [like(first.rows, row), row];
}

/** Shows rows side by side, and what their controls lead to. */
function show(pane, head, places, rows) {
  const articles = rows.map((row, side) =>
    rollout(head, row, places, (other, control) => {
      show(pane, head, places, rows.with(side, other));
      const again = `[aria-label="${control}"]`;
      pane.children[side].querySelector(again).focus();
    }),
  );
  pane.replaceChildren(...articles);
}

async function startRollouts(head) {
  const section = document.getElementById("rollouts");
  const status = document.getElementById("status");
  const rows = await read(head, status);
  if (!rows.length) {
    status.textContent = "There are no rollouts.";
    return;
  }
  const places = placesOf(rows);
  const form = filters(head, rows, places);
  const pane = el("div", { class: "pane" });
  const list = listbox(
    (row) => line(head, row),
    (row) => {
      const shown = form.beside.checked ? pairOf(row, places) : [row];
      pane.classList.toggle("pair", shown.length > 1);
      show(pane, head, places, shown);
    },
  );
  const apply = () => {
    const found = form.apply(rows);
    status.textContent = `${found.length} of ${rows.length} rollouts.`;
    list.set(found);
    if (found.length) list.go(0);
    else pane.replaceChildren(el("p", {}, "Nothing matches the filter."));
  };
  form.node.addEventListener("input", apply);
  form.node.addEventListener("reset", () => setTimeout(apply));
  form.node.addEventListener("submit", (event) => event.preventDefault());
  status.before(form.node);
  section.append(el("div", { class: "browser" }, list.node, pane));
  apply();
}
