// The list of the server's votes: open one, download it, or choose some to set them beside each other.

import { MOST, close, compare } from "./compare.js";
import { at, count, element, keep, policy, read, save, soft, strategy, tell } from "./tools.js";

const chosen = new Set(JSON.parse(keep.getItem("chosen") || "[]"));
const rows = new Map();  // by id; they stay, so that whoever is on one with the keyboard stays there
let open = () => {};

export function begin(show) {
  open = show;
  at("choose").addEventListener("click", () => compare([...chosen]));
  at("choose-none").addEventListener("click", () => {
    chosen.clear();
    for (const row of rows.values()) row.tick.checked = false;
    close();
    changed();
    at("past").focus();
  });
}

export async function list() {
  let found;
  try { found = await read("/laconic/runs"); } catch { return; }
  at("none").hidden = found.length > 0;
  at("runs").hidden = at("choosing").hidden = found.length === 0;
  const there = new Set(found.map((one) => one.id));
  for (const [id, row] of rows) if (!there.has(id)) { row.line.remove(); rows.delete(id); }
  for (const id of [...chosen]) if (!there.has(id)) chosen.delete(id);
  const body = at("runs").tBodies[0];
  found.forEach((one, place) => {
    const row = rows.get(one.id) || make(one);
    if (body.children[place] !== row.line) body.insertBefore(row.line, body.children[place] || null);
    fill(row, one);
  });
  changed();
}

function make(one) {
  const tick = element("input", { type: "checkbox", checked: chosen.has(one.id) });
  tick.addEventListener("change", () => { if (tick.checked) chosen.add(one.id); else chosen.delete(one.id); changed(); });
  const show = element("button", { type: "button" }, "Show");
  show.addEventListener("click", () => open(one.id));
  const json = element("button", { type: "button" }, "JSON");
  json.addEventListener("click", () => save(`/laconic/runs/${one.id}`, `laconic-${one.id.slice(0, 8)}.json`));
  const names = ["Problem", "Strategy", "Compression", "Answer", "Tokens", "Saved", "Seconds"];
  const cells = names.map((name, place) => element("td", { class: place > 3 ? "num" : "", "data-name": name }));
  const line = element("tr", {}, element("td", {}, element("label", { class: "tick" }, tick)), ...cells, element("td", {}, show, " ", json));
  const row = { line, tick, cells, buttons: [show, json] };
  rows.set(one.id, row);
  return row;
}

function fill(row, one) {
  const said = [one.question, `${strategy(one)}, ${one.n}`, policy(one.compress).split(":")[0], one.answer ?? one.state, count(one.generated), count(one.saved), one.seconds.toFixed(1)];
  said.forEach((text, place) => tell(row.cells[place], place === 1 ? soft(text) : text));
  row.cells[0].title = one.question;
  row.cells[2].title = policy(one.compress);
  const when = new Date(one.created * 1000).toLocaleTimeString();
  const name = `${strategy(one)}, ${one.n} traces, ${count(one.generated)} tokens, of ${when}`;
  row.tick.setAttribute("aria-label", `compare the run ${name}`);
  row.buttons[0].setAttribute("aria-label", `Show the run ${name}`);
  row.buttons[1].setAttribute("aria-label", `JSON of the run ${name}`);
}

function changed() {
  keep.setItem("chosen", JSON.stringify([...chosen]));
  for (const [id, row] of rows) row.tick.disabled = chosen.size >= MOST && !chosen.has(id);
  at("choose").disabled = chosen.size < 2;
  at("choose-none").hidden = chosen.size === 0;
  const most = chosen.size >= MOST ? `, the most at once` : "";
  tell(at("chosen"), chosen.size === 0 ? "Tick two or more to compare them." : `${chosen.size} chosen${most}${chosen.size === 1 ? "; one more to compare" : ""}.`);
}
