"use strict";
// Everything from outside becomes text nodes: nothing here parses markup.

const $ = (id) => document.getElementById(id);
const main = document.querySelector("main");
const lists = { first: document.querySelector("#first ol"), ranked: document.querySelector("#ranked ol") };
const narrow = matchMedia("(max-width: 760px)");
let pending = null; // the latest search; an answer to an older one is not shown
let key = stored("sessionStorage", "rrad-key");

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function stored(store, name, value) {
  try { // a browser may forbid storage
    if (value !== undefined) window[store].setItem(name, value);
    return window[store].getItem(name) || "";
  } catch {
    return value || "";
  }
}

function unit() {
  const known = stored("localStorage", "rrad-unit");
  if (known) return known;
  const random = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0"));
  return stored("localStorage", "rrad-unit", random.join(""));
}

// ---- searching ----

function post(path, body, options) {
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body), ...options });
}

function setStatus(text, busy) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", Boolean(busy));
  $("results").setAttribute("aria-busy", String(Boolean(busy)));
}

async function search() {
  const query = $("q").value.trim();
  if (pending) pending.abort();
  const current = pending = new AbortController();
  $("failed").hidden = true;
  if (!query) {
    for (const id of ["results", "options"]) $(id).hidden = true;
    if ($("start")) $("start").hidden = false;
    return setStatus("");
  }
  document.title = `${query}: search`;
  const body = { query };
  if (main.dataset.test) body.user = unit();
  if ($("explain") && $("explain").checked) Object.assign(body, { explain: true, top_n: Number(main.dataset.explained) });
  setStatus("Searching…", true);
  const began = performance.now();
  let response, content;
  try {
    response = await post("v1/search", body, { signal: current.signal });
    content = await response.json().catch(() => ({})); // a proxy refuses in words of its own
  } catch {
    if (current === pending) showProblem("The endpoint cannot be reached.");
    return;
  }
  if (current !== pending) return;
  if (response.ok) showAnswer(content, response.headers, performance.now() - began);
  else showRefusal(response, content);
}

function showRefusal(response, content) {
  if (response.status === 401) return askForKey();
  const wait = response.headers.get("Retry-After");
  const messages = {
    429: `The endpoint is busy; it asks to wait ${wait || "a few"} s.`,
    503: `The endpoint is busy; it asks to wait ${wait || "a few"} s.`,
    504: "The search took too long, and the endpoint gave up.",
  };
  showProblem(messages[response.status] || content.detail || `The endpoint answered with status ${response.status}.`);
}

function showProblem(text) {
  setStatus("");
  $("problem").textContent = text;
  $("failed").hidden = false;
}

function askForKey() {
  setStatus("");
  $("wrong").textContent = key ? "The endpoint does not know that key." : "";
  $("key").value = "";
  $("locked").returnValue = "";
  $("locked").showModal();
}

$("locked").addEventListener("close", () => {
  if ($("locked").returnValue !== "ok") return showProblem("The endpoint asks for a key.");
  key = stored("sessionStorage", "rrad-key", $("key").value.trim());
  search();
});

// ---- showing ----

function showAnswer(content, headers, tookMs) {
  const { documents, results } = content;
  const page = { request: headers.get("X-Exposure") || "", sent: new Set() };
  const ranked = new Map(results.map((result) => [result.index, result]));
  const best = Math.max(...documents.map((hit) => hit.score), 0);
  lists.first.replaceChildren(...documents.map((hit, index) =>
    listItem(hit, index, { rank: hit.rank, score: hit.score.toFixed(2), share: hit.score / best, to: ranked.get(index) })));
  lists.ranked.replaceChildren(...results.map((result) => {
    const score = result.relevance_score;
    const facts = { rank: result.rank, score: score.toFixed(3), share: score, to: result, reason: result.reason, page };
    return listItem(documents[result.index], result.index, facts);
  }));
  $("model").textContent = content.model;
  if ($("start")) $("start").hidden = true;
  for (const id of ["results", "options"]) $(id).hidden = !documents.length;
  if (!documents.length) return setStatus("No document shares a word with this query. Try other words.");
  const moved = results.filter((result) => result.moved).length;
  const test = headers.get("X-Variant") ? ` Online test ${main.dataset.test}: this is ${headers.get("X-Variant")}.` : "";
  const alone = headers.get("X-First-Stage") === "missing" ? " The winner's first-stage scores are not at hand: its student ranks alone." : "";
  const uncounted = headers.get("X-Variant") && !page.request ? " What you open here cannot be counted." : "";
  setStatus(`${documents.length} documents in ${Math.round(tookMs)} ms; ${moved} moved.${alone}${test}${uncounted}`);
  drawMoves();
}

function listItem(hit, index, facts) {
  const chars = Array.from(hit.text); // marks count characters, not UTF-16 units
  const line = chars.indexOf("\n");
  const titled = line > 0 && line <= 300;
  const from = titled ? line + 1 : 0;
  const title = make("button", { type: "button", class: "title", "aria-expanded": "false" });
  title.append(titled ? highlighted(chars, hit.marks, 0, line) : hit.doc_id);
  const body = make("p", { class: "body" }, snippet(chars, hit.marks, from));
  const head = make("div", { class: "head" }, make("span", { class: "rank" }, String(facts.rank)), title, badge(facts.to));
  const item = make("li", { "data-index": index }, head, body, factsLine(hit, facts));
  if (facts.reason) item.append(make("p", { class: "reason" }, make("b", {}, "Why: "), facts.reason));
  title.addEventListener("click", () => {
    const open = item.classList.toggle("open");
    title.setAttribute("aria-expanded", String(open));
    body.replaceChildren(open ? highlighted(chars, hit.marks, from, chars.length) : snippet(chars, hit.marks, from));
    if (open && facts.page) sendClick(facts.page, hit.doc_id, facts.rank);
    drawMoves();
  });
  for (const [event, on] of [["mouseenter", 1], ["mouseleave", 0], ["focusin", 1], ["focusout", 0]])
    item.addEventListener(event, () => highlightPair(index, on));
  return item;
}

function badge(to) {
  if (!to) return make("span", { class: "move" }, "–", make("span", { class: "unseen" }, " not among those shown"));
  const ranks = Math.abs(to.moved);
  const [kind, sign, direction] = to.moved > 0 ? ["up", "▲", "up"] : to.moved < 0 ? ["down", "▼", "down"] : ["", "=", ""];
  const words = ranks ? `re-ranking moved it ${direction} by ${ranks}, to ${to.rank}` : "stayed where it was";
  const shown = make("span", { "aria-hidden": "true" }, ranks ? `${sign} ${ranks}` : sign);
  return make("span", { class: `move ${kind}`, title: words }, shown, make("span", { class: "unseen" }, words));
}

function factsLine(hit, facts) {
  const fill = make("i", {});
  fill.style.width = `${100 * Math.min(1, Math.max(0, facts.share))}%`;
  const line = make("p", { class: "facts" }, make("span", { class: "bar", "aria-hidden": "true" }, fill));
  line.append(make("span", { class: "score" }, make("span", { class: "unseen" }, "score "), facts.score));
  for (const [word, points] of Object.entries(hit.matched))
    line.append(make("span", { class: "term", title: "what this word adds to the BM25 score" }, make("b", {}, word), ` ${points.toFixed(1)}`));
  return line;
}

function highlighted(chars, marks, from, to) {
  const fragment = document.createDocumentFragment();
  let at = from;
  for (const [start, end] of marks) {
    if (start < at || end > to) continue;
    fragment.append(chars.slice(at, start).join(""), make("mark", {}, chars.slice(start, end).join("")));
    at = end;
  }
  fragment.append(chars.slice(at, to).join(""));
  return fragment;
}

function snippet(chars, marks, from) {
  const first = marks.find(([start]) => start >= from);
  const start = first && first[0] - from > 140 ? first[0] - 50 : from;
  const fragment = highlighted(chars, marks, start, Math.min(chars.length, start + 400));
  if (start > from) fragment.prepend("… ");
  return fragment;
}

// Sends a click of the online test: an opened result of the re-ranked list, the test's page; the other list is for
// comparison.
async function sendClick(page, doc, position) {
  if (!page.request || page.sent.has(doc)) return;
  page.sent.add(doc);
  const events = [{ request_id: page.request, doc_id: doc, position }];
  const response = await post("v1/events", { events }, { keepalive: true }).catch(() => null);
  if (response && response.ok) return;
  page.sent.delete(doc); // the next opening tries again
  setStatus("What you opened could not be counted.");
}

// ---- the two lists beside each other ----

function highlightPair(index, on) {
  for (const item of document.querySelectorAll(`#results li[data-index="${index}"]`)) item.classList.toggle("twin", Boolean(on));
  for (const path of $("moves").querySelectorAll(`[data-index="${index}"]`)) path.classList.toggle("on", Boolean(on));
}

function drawMoves() {
  const frame = $("moves").getBoundingClientRect();
  $("moves").replaceChildren();
  if (main.dataset.view !== "both" || !frame.width) return;
  const middle = (item) => item.getBoundingClientRect().top - frame.top + 20;
  for (const ranked of lists.ranked.children) {
    const { index } = ranked.dataset;
    const before = lists.first.children[index];
    const [y1, y2, w] = [middle(before), middle(ranked), frame.width];
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const move = ranked.querySelector(".move").classList;
    path.setAttribute("d", `M3 ${y1} C${w / 2} ${y1} ${w / 2} ${y2} ${w - 3} ${y2}`);
    path.setAttribute("class", move.contains("up") ? "up" : move.contains("down") ? "down" : "same");
    path.dataset.index = index;
    $("moves").append(path);
  }
}

function setView(name) {
  main.dataset.view = name;
  document.querySelector(`#views [value=${name}]`).checked = true;
  drawMoves();
}

// One list where there is room for one, and in an online test, whose page is one list.
const setUsualView = () => setView(narrow.matches || main.dataset.test ? "ranked" : "both");
narrow.addEventListener("change", setUsualView);
$("views").addEventListener("change", (event) => setView(event.target.value));
new ResizeObserver(drawMoves).observe($("results"));
setUsualView();

// ---- keys and addresses ----

function neighbour(title, key) {
  const titles = [...title.closest("ol").querySelectorAll(".title")];
  if (key === "ArrowDown") return titles[titles.indexOf(title) + 1];
  if (key === "ArrowUp") return titles[titles.indexOf(title) - 1] || $("q");
  const side = lists[key === "ArrowLeft" ? "first" : "ranked"];
  return side.querySelector(`li[data-index="${title.closest("li").dataset.index}"] .title`);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("locked").open) return;
  const typing = event.target.matches("#q");
  const title = event.target.closest(".title");
  let next = null;
  if (!typing && (event.key === "/" || (title && event.key === "Escape"))) next = $("q");
  else if (typing && event.key === "ArrowDown") next = lists[main.dataset.view === "first" ? "first" : "ranked"].querySelector(".title");
  else if (title && event.key.startsWith("Arrow")) next = neighbour(title, event.key);
  if (!next || (next !== $("q") && !next.offsetParent)) return;
  event.preventDefault();
  next.focus();
  if (next === $("q")) next.select();
});

function searchFromAddress() {
  $("q").value = new URLSearchParams(location.search).get("q") || "";
  search();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("q").value.trim();
  if (query) history.pushState(null, "", `?${new URLSearchParams({ q: query })}`);
  search();
});
$("again").addEventListener("click", search);
if ($("explain")) $("explain").addEventListener("change", search);
addEventListener("popstate", searchFromAddress);
searchFromAddress();
