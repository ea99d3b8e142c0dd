// Several runs' lines in one drawing, in the pixels that there are, so that its words are as large as the page's.

import { bytes, count, shape } from "./tools.js";

const LEFT = 62, RIGHT = 18, TOP = 10, BOTTOM = 38, HEIGHT = 240;

// What can be drawn: a line is [x, y] points. steps: it stays level between them.
export const KINDS = {
  tokens: { name: "Tokens of all traces against seconds", x: "seconds", y: count, points: (run) => column(run, "tokens") },
  kv: { name: "KV cache held against seconds", x: "seconds", y: bytes, binary: true, points: (run) => column(run, "kv_bytes") },
  running: { name: "Traces that run against seconds", x: "seconds", y: count, steps: true, points: (run) => column(run, "running") },
  length: { name: "Traces that came to a length", x: "tokens of a trace", y: count, steps: true, points: reached },
};

function column(run, name) {
  const place = run.growth.columns.indexOf(name);
  const found = run.growth.rows.map((row) => [row[0], row[place]]);
  if (name === "tokens" && found.length) found.unshift([0, 0]);
  return found;
}

function reached(run) {
  const lengths = run.traces.map((trace) => trace[1]).filter((length) => length > 0).sort((a, b) => a - b);
  const found = lengths.length ? [[0, lengths.length]] : [];
  lengths.forEach((length, place) => found.push([length, lengths.length - place - 1]));
  return found;
}

export function draw(box, kind, runs, marks) {
  const { points, y: shown, x: name, steps, binary } = KINDS[kind];
  const lines = runs.map(points);
  const flat = lines.flat();
  const some = flat.some(([, y]) => y > 0);
  if (!some) {
    box.replaceChildren("There is nothing to draw: the engine doesn't tell, or nothing ran.");
    return;
  }
  const width = Math.max(260, box.clientWidth);
  const mostX = Math.max(...flat.map(([x]) => x)) || 1, mostY = Math.max(...flat.map(([, y]) => y)) || 1;
  const placeX = (x) => LEFT + (x / mostX) * (width - LEFT - RIGHT);
  const placeY = (y) => HEIGHT - BOTTOM - (y / mostY) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const y of ticks(mostY, 4, binary)) {
    parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: placeY(y), y2: placeY(y) }));
    parts.push(shape("text", { x: LEFT - 6, y: placeY(y) + 4, "text-anchor": "end" }, shown(y)));
  }
  for (const x of ticks(mostX, width < 500 ? 4 : 8)) {
    parts.push(shape("text", { x: placeX(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, count(x)));
  }
  parts.push(shape("text", { x: LEFT + (width - LEFT - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, name));
  lines.forEach((line, place) => {
    if (!line.length) return;
    const path = line.map(([x, y], i) => (i === 0 ? `M${placeX(x)} ${placeY(y)}` : steps ? `H${placeX(x)}V${placeY(y)}` : `L${placeX(x)} ${placeY(y)}`)).join("");
    parts.push(shape("path", { class: `line line${place}`, d: path }));
  });
  lines.forEach((line, place) => {  // its letter, where it ends
    if (!line.length) return;
    const [x, y] = line[line.length - 1];
    parts.push(shape("text", { class: `end line${place}`, x: Math.min(placeX(x) + 4, width - 12), y: Math.max(TOP + 8, placeY(y) - 4) }, marks[place]));
  });
  const ends = lines.map((line, place) => (line.length ? `${marks[place]} ends at ${shown(line[line.length - 1][1])} after ${count(line[line.length - 1][0])} ${name}` : `${marks[place]} has none`));
  box.replaceChildren(shape("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${KINDS[kind].name}: ${ends.join("; ")}` }, ...parts));
}

function ticks(most, about, binary = false) {
  const step = binary ? 2 ** Math.ceil(Math.log2(most / about)) : nice(most / about);
  const found = [];
  for (let value = 0; value <= most * 1.0001; value += step) found.push(Math.round(value * 1e6) / 1e6);
  return found;
}

function nice(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
}
