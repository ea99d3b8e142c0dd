"use strict";
// The page of laconic's server: no library, nothing from elsewhere. Texts of models only ever become text nodes.

const at = (id) => document.getElementById(id);
const keep = (() => { try { return window.sessionStorage; } catch { return { getItem: () => null, setItem: () => {}, removeItem: () => {} }; } })();
const HUES = [210, 30, 140, 280, 350, 60, 180, 110, 320, 250];
let current = null;   // id of the run that is shown
let watching = null;  // AbortController of its events
let last = null;      // its latest state
let info = null;

function headers(more) {
  const key = at("key").value.trim();
  return key ? { ...more, Authorization: `Bearer ${key}` } : { ...more };
}

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (!response.ok) {
    let message = `the server answered ${response.status}`;
    try { message = (await response.json()).error.message; } catch { /* no JSON */ }
    if (response.status === 401) at("key-box").open = true;
    throw new Error(message);
  }
  return response;
}

function complain(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? String(error.message || error) : "";
}

function count(value) { return value === null || value === undefined ? "–" : Number(value).toLocaleString("en"); }

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value; else if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- asking ----------------------------------------------------------------------------------------------------------

async function learn() {
  info = await (await call("/laconic/info")).json();
  at("served").textContent = `serves ${info.model} · version ${info.version}`;
  at("strategy").replaceChildren(...info.strategies.map((name) => element("option", {}, name)));
  const given = info.strategy.split(":")[0];
  at("strategy").value = info.strategies.includes(info.strategy) ? info.strategy : given;
  if (info.strategy.startsWith(`${given}:`) && !info.strategies.includes(info.strategy)) at("strategy-settings").value = info.strategy.slice(given.length + 1);
  at("compress").replaceChildren(...["none", ...info.policies].map((name) => element("option", {}, name)));
  const policy = info.compress.split(":")[0];
  at("compress").value = info.policies.includes(policy) ? policy : "none";
  if (info.policies.includes(policy) && info.compress.includes(":")) at("compress-settings").value = info.compress.slice(policy.length + 1);
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
    await show((await made.json()).id);
  } catch (error) {
    complain(error);
  } finally {
    at("run").disabled = false;
  }
  list();
}

// ---- watching --------------------------------------------------------------------------------------------------------

async function show(id) {
  if (watching) watching.abort();
  current = id;
  last = null;
  keep.setItem("run", id);
  at("board").hidden = false;
  at("traces").replaceChildren();
  at("question").textContent = "";
  const mine = (watching = new AbortController());
  call(`/laconic/runs/${id}`).then((found) => found.json()).then((found) => { if (current === id) at("question").textContent = found.question; }).catch(() => {});
  follow(id, mine).catch((error) => { if (error.name !== "AbortError") complain(error); });
}

async function follow(id, mine) {
  // Not EventSource: it can't send a key.
  const response = await call(`/laconic/runs/${id}/events`, { signal: mine.signal });
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

function sentence(state) {
  if (state.state === "failed") return state.error;
  if (state.state === "stopped") return "stopped";
  if (state.state === "over") return state.answer === null ? "no trace gave an answer" : `answer ${state.answer}`;
  const ahead = state.votes[0];
  return ahead ? `${state.phase}: so far ${ahead[0]}` : `${state.phase || "starting"} …`;
}

function draw(state) {
  if (state.id !== current) return;
  last = state;
  at("verdict").textContent = sentence(state);
  at("stop").disabled = state.state !== "running";
  const all = state.saved !== null && state.saved > 0 ? state.generated + state.judged + state.saved : null;
  const rate = state.seconds > 0 ? state.generated / state.seconds : 0;
  const facts = [
    ["votes", state.votes.slice(0, 4).map(([answer, weight]) => `${answer} (${Number(weight.toFixed(2))})`).join(", ") || "none yet"],
    ["tokens", count(state.generated)],
    ["saved against all", all === null ? "–" : `${count(state.saved)} (${Math.round((100 * state.saved) / all)} %)`],
    ["seconds", state.seconds.toFixed(1)],
    ["seconds saved, about", all === null || !rate ? "–" : (state.saved / rate).toFixed(1)],
    ["clusters", state.clusters.length ? state.clusters.join(", ") : "–"],
    ["plain vote, same tokens", state.plain ? `${state.plain[0] ?? "none"} (${state.plain[1]} of ${state.plain[2]})` : "–"],
    ["strategy", state.strategy || "–"],
    ["compression", state.compress || "–"],
    ["seed", String(state.seed)],
  ];
  at("facts").replaceChildren(...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  const full = state.kv_full;
  at("gauge").hidden = !full;
  if (full) {
    at("gauge-text").textContent = `KV cache: ${bytes(state.kv_held)} held of ${bytes(full)} written`;
    at("gauge-held").style.width = `${(100 * state.kv_held) / full}%`;
  }
  rows(state);
  at("log").replaceChildren(...state.messages.map(([seconds, message]) => element("li", {}, `${seconds.toFixed(1)} s: ${message}`)));
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
      button.addEventListener("click", () => read(current, Number(button.dataset.index)));
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

async function read(id, index) {
  try {
    const found = await (await call(`/laconic/runs/${id}/traces/${index}`)).json();
    at("reader-title").textContent = `Trace ${index}`;
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

// ---- past runs -------------------------------------------------------------------------------------------------------

async function list() {
  let found;
  try { found = await (await call("/laconic/runs")).json(); } catch { return; }
  at("none").hidden = found.length > 0;
  at("runs").hidden = found.length === 0;
  at("runs").tBodies[0].replaceChildren(...found.map((one) => {
    const open = element("button", { type: "button" }, "Show");
    open.addEventListener("click", () => { complain(null); show(one.id); at("board").scrollIntoView(); at("board").focus(); });
    const save = element("button", { type: "button" }, "JSON");
    save.addEventListener("click", () => download(one.id));
    const cell = (text, kind) => element("td", kind ? { class: kind } : {}, text);
    const problem = cell(one.question);
    problem.title = one.question;
    return element("tr", {}, problem, cell(one.strategy ? `${one.strategy}, ${one.n}` : "–"), cell((one.compress || "–").split(":")[0]),
      cell(one.answer ?? one.state), cell(count(one.generated), "num"), cell(count(one.saved), "num"), cell(one.seconds.toFixed(1), "num"),
      element("td", {}, open, " ", save));
  }));
}

async function download(id) {
  try {
    const blob = await (await call(`/laconic/runs/${id}`)).blob();
    const link = element("a", { href: URL.createObjectURL(blob), download: `laconic-${id.slice(0, 8)}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    complain(error);
  }
}

// ---- begin -----------------------------------------------------------------------------------------------------------

async function begin() {
  at("key").value = keep.getItem("key") || "";
  at("key").addEventListener("change", () => { keep.setItem("key", at("key").value); begin2(); });
  at("ask").addEventListener("submit", run);
  at("stop").addEventListener("click", stop);
  at("problem").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit(); });
  await begin2();
  setInterval(() => { if (!document.hidden) list(); }, 5000);
}

async function begin2() {
  complain(null);
  try {
    await learn();
    await list();
    const before = keep.getItem("run");
    if (before && !current) {
      await call(`/laconic/runs/${before}`).then(() => { if (!current) show(before); }, () => keep.removeItem("run"));
    }
  } catch (error) {
    complain(error);
  }
}

begin();
