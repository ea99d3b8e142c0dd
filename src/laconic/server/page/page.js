// The page of laconic's server: no library, nothing from elsewhere. Texts of models only ever become text nodes.

import { begin as beginCompare } from "./compare.js";
import { begin as beginRuns, list } from "./runs.js";
import { all, at, bytes, call, complain, count, element, keep, policy, read, soft, strategy, tell, verdict, votes } from "./tools.js";

const HUES = [210, 30, 140, 280, 350, 60, 180, 110, 320, 250];
const AGAIN = 2000;   // milliseconds before a run that was lost is looked for again
let current = null;   // id of the run that is shown
let watching = null;  // AbortController of its events
let last = null;      // its latest state
let info = null;

// ---- asking ----------------------------------------------------------------------------------------------------------

async function learn() {
  info = await read("/laconic/info");
  at("served").textContent = `serves ${info.model} · version ${info.version}`;
  at("strategy").replaceChildren(...info.strategies.map((name) => element("option", {}, name)));
  const given = info.strategy.split(":")[0];
  at("strategy").value = info.strategies.includes(info.strategy) ? info.strategy : given;
  if (info.strategy.startsWith(`${given}:`) && !info.strategies.includes(info.strategy)) at("strategy-settings").value = info.strategy.slice(given.length + 1);
  at("compress").replaceChildren(...["none", ...info.policies].map((name) => element("option", {}, name)));
  const own = info.compress.split(":")[0];
  at("compress").value = info.policies.includes(own) ? own : "none";
  if (info.policies.includes(own) && info.compress.includes(":")) at("compress-settings").value = info.compress.slice(own.length + 1);
  at("n").value = info.n;
  at("n").max = info.most_traces;
  if (info.example && !at("problem").value) at("problem").value = info.example;
}

function spec(name, settings) {
  const text = settings.trim();
  return text && name !== "none" ? `${name}${name.includes(":") ? "," : ":"}${text}` : name;
}

async function run(event) {
  event.preventDefault();
  complain(null);
  const body = {
    problem: at("problem").value,
    laconic: {
      strategy: spec(at("strategy").value, at("strategy-settings").value),
      n: Number(at("n").value),
      compress: spec(at("compress").value, at("compress-settings").value),
    },
  };
  if (at("seed").value !== "") body.seed = Number(at("seed").value);
  at("run").disabled = true;
  try {
    const made = await call("/laconic/runs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    show((await made.json()).id);
    at("board").scrollIntoView({ block: "nearest" });
  } catch (error) {
    complain(error);
  } finally {
    at("run").disabled = false;
  }
  list();
}

// ---- watching --------------------------------------------------------------------------------------------------------

function show(id) {
  if (watching) watching.abort();
  current = id;
  last = null;
  keep.setItem("run", id);
  at("board").hidden = false;
  at("traces").replaceChildren();
  at("log").replaceChildren();
  at("question").textContent = "";
  const mine = (watching = new AbortController());
  read(`/laconic/runs/${id}/summary`).then((found) => { if (current === id) at("question").textContent = found.question; }).catch(() => {});
  watch(id, mine);
}

async function watch(id, mine) {
  while (!mine.signal.aborted) {
    try {
      await follow(id, mine);
    } catch (error) {
      if (mine.signal.aborted) return;
      complain(error);
      if (error.status && error.status !== 503) return;
    }
    if (last && last.state !== "running") return;
    await new Promise((resolve) => { setTimeout(resolve, AGAIN); });  // the line was cut, and the run may still go on
  }
}

async function follow(id, mine) {
  // Not EventSource: it can't send a key.
  const response = await call(`/laconic/runs/${id}/events`, { signal: mine.signal });
  complain(null);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    waiting += value;
    const parts = waiting.split("\n\n");
    waiting = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) draw(JSON.parse(part.slice(6)));
  }
  list();
}

function draw(state) {
  if (state.id !== current) return;
  last = state;
  tell(at("verdict"), verdict(state));
  at("stop").disabled = state.state !== "running";
  const whole = all(state);
  const rate = state.seconds > 0 ? state.generated / state.seconds : 0;
  const facts = [
    ["votes", votes(state.votes) || "none yet"],
    ["tokens", count(state.generated)],
    ["saved against all", whole === null ? "–" : `${count(state.saved)} (${Math.round((100 * state.saved) / whole)} %)`],
    ["seconds", state.seconds.toFixed(1)],
    ["seconds saved, about", whole === null || !rate ? "–" : (state.saved / rate).toFixed(1)],
    ["clusters", state.clusters.length ? state.clusters.join(", ") : "–"],
    ["plain vote, same tokens", state.plain ? `${state.plain[0] ?? "none"} (${state.plain[1]} of ${state.plain[2]})` : "–"],
    ["strategy", strategy(state)],
    ["compression", policy(state.compress)],
    ["seed", String(state.seed)],
  ];
  at("facts").replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, soft(value)))));
  const full = state.kv_full;
  at("gauge").hidden = !full;
  if (full) {
    at("gauge-text").textContent = `KV cache: ${bytes(state.kv_held)} held of ${bytes(full)} written`;
    at("gauge-held").style.width = `${(100 * state.kv_held) / full}%`;
  }
  rows(state);
  if (at("log").children.length !== state.messages.length) at("log").replaceChildren(...state.messages.map(([seconds, message]) => element("li", {}, `${seconds.toFixed(1)} s: ${message}`)));
}

function rows(state) {
  const list = at("traces");
  const longest = Math.max(1, ...state.traces.map((trace) => trace[1]));
  while (list.children.length > state.traces.length) list.lastChild.remove();
  state.traces.forEach((trace, place) => {
    const [index, tokens, fate, cluster, answer, reason] = trace;
    let row = list.children[place];
    if (!row) {
      const button = element("button", { type: "button" },
        element("span", { class: "cluster" }), element("span", { class: "number" }),
        element("span", { class: "track" }, element("div")), element("span", { class: "number" }), element("span", { class: "fate" }));
      button.addEventListener("click", () => readTrace(current, Number(button.dataset.index)));
      row = element("li", {}, button);
      list.append(row);
    }
    const button = row.firstChild;
    const [mark, name, track, length, what] = button.children;
    button.dataset.index = index;
    mark.style.background = cluster === null ? "transparent" : `hsl(${HUES[cluster % HUES.length]} 65% 50%)`;
    name.textContent = index;
    track.firstChild.className = fate;
    track.firstChild.style.width = `${(100 * tokens) / longest}%`;
    length.textContent = count(tokens);
    what.replaceChildren(...(answer !== null ? [element("b", {}, answer), ` · ${fate}`] : [fate === "running" || fate === "waiting" ? fate : `${fate}: ${reason}`]));
    const where = cluster === null ? "" : `, cluster ${cluster}`;
    const told = answer === null ? "" : `, answer ${answer}`;
    button.title = reason;
    button.setAttribute("aria-label", `trace ${index}, ${tokens} tokens, ${fate}${where}${told}; ${reason}`);
    if (state.winner === index) what.append(" ★");
  });
}

async function readTrace(id, index) {
  try {
    const found = await read(`/laconic/runs/${id}/traces/${index}`);
    const trace = last && last.traces.find((each) => each[0] === index);
    at("reader-title").textContent = `Trace ${index}${trace && trace[4] !== null ? `: ${trace[4]}` : ""}`;
    at("reader-why").textContent = trace ? `${trace[2]}${trace[5] ? `: ${trace[5]}` : ""}` : "";
    at("reader-note").textContent = found.known
      ? `${count(found.held)} of ${count(found.tokens)} tokens are held (shaded); the others were evicted.`
      : `${count(found.tokens)} tokens; nothing was evicted, or the engine doesn't tell.`;
    at("reader-text").replaceChildren(...found.parts.map(([text, held]) => (found.known ? element(held ? "mark" : "span", held ? {} : { class: "gone" }, text) : text)));
    at("reader").showModal();
    at("reader-text").scrollTop = 0;
  } catch (error) {
    complain(error);
  }
}

async function stop() {
  if (!current) return;
  at("stop").disabled = true;
  try { await call(`/laconic/runs/${current}`, { method: "DELETE" }); } catch (error) { complain(error); }
}

// ---- begin -----------------------------------------------------------------------------------------------------------

async function begin() {
  at("key").value = keep.getItem("key") || "";
  at("key").addEventListener("change", () => { keep.setItem("key", at("key").value); greet(); });
  at("ask").addEventListener("submit", run);
  at("stop").addEventListener("click", stop);
  at("problem").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit(); });
  beginCompare();
  beginRuns((id) => { complain(null); show(id); at("board").scrollIntoView(); at("board").focus(); });
  await greet();
  setInterval(() => { if (!document.hidden) list(); }, 5000);
}

async function greet() {
  complain(null);
  try {
    await learn();
    await list();
    const before = keep.getItem("run");
    if (before && !current) {
      await read(`/laconic/runs/${before}/summary`).then(() => { if (!current) show(before); }, () => keep.removeItem("run"));
    }
  } catch (error) {
    complain(error);
  }
}

begin();
