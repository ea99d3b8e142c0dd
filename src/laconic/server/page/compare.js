// Past runs beside each other: a column each, and their growth in one drawing.

import { KINDS, draw } from "./drawing.js";
import { all, at, bytes, complain, count, element, give, keep, policy, read, shape, soft, strategy, verdict, votes } from "./tools.js";

export const MOST = 6;  // columns
const MARKS = "ABCDEF";
let shown = [];  // their summaries

export async function compare(ids) {
  try {
    shown = await Promise.all(ids.map((id) => read(`/laconic/runs/${id}/summary`)));
  } catch (error) {
    complain(error);
    return;
  }
  complain(null);
  at("compare").hidden = false;
  redraw();
  at("compare").scrollIntoView();
  at("compare").focus();
}

export function close() {
  shown = [];
  at("compare").hidden = true;
}

export function begin() {
  at("kind").replaceChildren(...Object.entries(KINDS).map(([value, { name }]) => element("option", { value }, name)));
  at("kind").value = keep.getItem("kind") in KINDS ? keep.getItem("kind") : "tokens";
  at("kind").addEventListener("change", () => { keep.setItem("kind", at("kind").value); redraw(); });
  at("compare-save").addEventListener("click", () => give(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }), "laconic-runs.json"));
  new ResizeObserver(() => { if (shown.length) drawing(); }).observe(at("drawing"));
}

function redraw() {
  table();
  drawing();
  at("legend").replaceChildren(...shown.map((run, place) => element("li", {}, sample(place), ` ${MARKS[place]}: ${strategy(run)}, ${run.traces.length} traces, compression ${policy(run.compress)}, seed ${run.seed}`)));
}

function drawing() { draw(at("drawing"), at("kind").value, shown, MARKS); }

function sample(place) {
  return shape("svg", { class: "sample", width: 28, height: 10, "aria-hidden": "true" }, shape("path", { class: `line line${place}`, d: "M1 5H27" }));
}

// A row: its name, what a run says, and the number of it that is set against the first run's.
const ROWS = [
  ["verdict", verdict],
  ["votes", (run) => votes(run.votes) || "–"],
  ["plain vote, same tokens", (run) => (run.plain ? `${run.plain[0] ?? "none"} (${run.plain[1]} of ${run.plain[2]})` : "–")],
  ["strategy", strategy],
  ["judge", (run) => run.judge || "–"],
  ["compression", (run) => policy(run.compress)],
  ["seed", (run) => String(run.seed)],
  ["traces", fates],
  ["clusters", (run) => (run.clusters.length ? run.clusters.join(", ") : "–")],
  ["tokens", (run) => count(run.generated), (run) => run.generated],
  ["read by a judge", (run) => count(run.judged), (run) => run.judged],
  ["saved against all", (run) => (all(run) === null ? "–" : `${count(run.saved)} (${Math.round((100 * run.saved) / all(run))} %)`)],
  ["seconds", (run) => run.seconds.toFixed(1), (run) => run.seconds],
  ["KV cache at most", (run) => (run.kv_peak ? bytes(run.kv_peak) : "–"), (run) => run.kv_peak],
];

function fates(run) {
  const said = new Map();
  for (const trace of run.traces) said.set(trace[2], (said.get(trace[2]) || 0) + 1);
  return `${run.traces.length}: ${[...said].map(([fate, number]) => `${number} ${fate}`).join(", ")}`;
}

function table() {
  const same = shown.every((run) => run.question === shown[0].question);
  at("compare-question").hidden = !same;
  at("compare-question").textContent = same ? shown[0].question : "";
  const some = ROWS.filter(([, say, number]) => !number || shown.some((run) => number(run) > 0));
  const rows = same ? some : [["problem", (run) => run.question], ...some];
  const head = element("tr", {}, element("td"), ...shown.map((run, place) => element("th", { scope: "col" }, sample(place), ` ${MARKS[place]}`)));
  at("columns").tHead.replaceChildren(head);
  at("columns").tBodies[0].replaceChildren(...rows.map(([name, say, number]) => {
    const first = number ? number(shown[0]) : 0;
    return element("tr", {}, element("th", { scope: "row" }, name), ...shown.map((run, place) => {
      const cell = element("td", {}, soft(say(run)));
      if (place && first > 0 && number(run) > 0) cell.append(element("span", { class: "times" }, `${ratio(number(run) / first)} × A`));
      return cell;
    }));
  }));
}

function ratio(value) { return value >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(2)); }
