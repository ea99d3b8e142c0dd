// What the parts of the page share: the document, the server, numbers as people read them.

export const at = (id) => document.getElementById(id);
export const keep = (() => { try { return window.sessionStorage; } catch { return { getItem: () => null, setItem: () => {}, removeItem: () => {} }; } })();

export async function call(path, options = {}) {
  const key = at("key").value.trim();
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : { ...options.headers };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server can't be reached; is it still running?");
  }
  if (!response.ok) {
    let message = `the server answered ${response.status}`;
    try { message = (await response.json()).error.message; } catch { /* no JSON */ }
    if (response.status === 401) at("key-box").open = true;
    throw Object.assign(new Error(message), { status: response.status });
  }
  return response;
}

export const read = async (path) => (await call(path)).json();

export function complain(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? String(error.message || error) : "";
}

export function tell(node, text) { if (node.textContent !== text) node.textContent = text; }

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value; else if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function shape(tag, properties = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function count(value) { return value === null || value === undefined ? "–" : Number(value).toLocaleString("en"); }

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} ${units[unit]}`;
}

// A long spec may break after its commas and colons, and not in the middle of a word.
export const soft = (text) => String(text).replace(/([,:=])(?=\S)/g, "$1\u200b");

export const weight = (value) => String(Number(value.toFixed(2)));
export const votes = (given) => given.slice(0, 4).map(([answer, w]) => `${answer} (${weight(w)})`).join(", ");
export const policy = (spec) => (!spec ? "–" : spec === "full" ? "none" : spec);
export const strategy = (run) => run.spec || run.strategy || "–";

export function all(run) { return run.saved !== null && run.saved > 0 ? run.generated + run.judged + run.saved : null; }

export function verdict(run) {
  if (run.state === "failed") return run.error || "failed";
  if (run.state === "stopped") return "no verdict: its client went away";
  if (run.state === "over") return run.answer === null ? "no trace gave an answer" : `answer ${run.answer}`;
  const ahead = run.votes[0];
  return ahead ? `${run.phase}: so far ${ahead[0]}` : `${run.phase || "starting"} …`;
}

export async function save(path, name) {
  try { give(await (await call(path)).blob(), name); } catch (error) { complain(error); }
}

export function give(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
