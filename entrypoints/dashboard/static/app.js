// Keeps a page live: one event stream while the page is visible, resumed by position, and its live
// part requested anew after events. Also charts, selections, confirmations and the theme.

const { view, root } = document.body.dataset; // root: the prefix of all paths behind a proxy
const live = document.getElementById("live");
const notice = document.getElementById("notice");

// The stream: our position in the log, and what to do with new events.

const REFRESH_MS = 1000; // between two requests for a job
const IDLE_REFRESH_MS = 10000; // the explanation of a job, and which workers are alive, change without an event
const RECONNECT_MS_MAX = 5000;

let source = null;
let position = 0; // of the latest event that we have seen
let failures = 0;
let reconnecting = 0;

function streamPath() {
  if (view === "audit") return document.getElementById("events")?.dataset.live ?? null;
  if (new URLSearchParams(location.search).get("as_of")) return null; // the past is not live
  const job = location.pathname.slice(root.length).match(/^\/jobs\/(\d+)$/);
  return root + (job ? `/v1/stream?job_id=${job[1]}` : "/pulse");
}

function connect() {
  disconnect();
  const path = streamPath();
  if (path === null || document.hidden) return showConnection("still", "not moving");
  const mine = new EventSource(`${path}${path.includes("?") ? "&" : "?"}after=${position}`);
  source = mine;
  mine.onopen = () => {
    failures = 0;
    showConnection("live", "live");
  };
  mine.onmessage = (message) => {
    const arrived = Number(message.lastEventId);
    if (source !== mine) return;
    const isNews = arrived > position;
    position = Math.max(position, arrived);
    if (path === `${root}/pulse`) refresh(); // at the same time as all open pages, so that they share an answer
    else if (isNews && view === "audit") take(JSON.parse(message.data));
    else if (isNews) refreshSoon();
  };
  mine.onerror = () => {
    showConnection("away", "reconnecting");
    if (mine.readyState !== EventSource.CLOSED) return; // the browser reconnects by itself
    toLoginIfEnded(path);
    clearTimeout(reconnecting);
    reconnecting = setTimeout(connect, Math.min(RECONNECT_MS_MAX, 500 * 2 ** failures++));
  };
}

// An event source does not say why it was refused.
async function toLoginIfEnded(path) {
  const answer = await fetch(path, { method: "HEAD" }).catch(() => null);
  if (answer?.status === 401) location.assign(`${root}/login`);
}

function disconnect() {
  clearTimeout(reconnecting);
  source?.close();
  source = null;
}

function showConnection(state, text) {
  const connection = document.getElementById("connection");
  connection.dataset.state = state;
  if (connection.textContent !== text) connection.textContent = text;
}

function readPosition() {
  position = Math.max(position, Number(live.querySelector("[data-position]")?.dataset.position ?? 0));
}

// A job: requested at once after an event, then at most every second while there are more.

let refreshing = 0;
let isStale = false;

function refreshSoon() {
  if (refreshing) {
    isStale = true;
    return;
  }
  refresh();
  refreshing = setTimeout(function again() {
    refreshing = isStale ? setTimeout(again, REFRESH_MS) : 0;
    if (isStale) {
      isStale = false;
      refresh();
    } else {
      refresh(); // projections that follow the log may be a little later
    }
  }, REFRESH_MS);
}

function refresh() {
  if (document.hidden || isBeingRead()) return;
  if (view === "audit" || view === "error" || streamPath() === null) return;
  htmx.ajax("GET", location.pathname + location.search, { target: "#live", swap: "morph:innerHTML", headers: { "X-Fairlog-Refresh": "true" } });
  if (view === "overview") drawCharts();
}

function isBeingRead() {
  return view === "jobs" && selected().length > 0;
}

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-Fairlog-Position"] = String(position);
  for (const [name, value] of Object.entries(event.detail.parameters)) {
    if (value === "") delete event.detail.parameters[name]; // the address has only parameters that are set
  }
});
document.addEventListener("htmx:afterRequest", (event) => {
  const after = Number(event.detail.xhr?.getResponseHeader("X-Fairlog-Position") ?? 0);
  if (after) {
    position = Math.max(position, after);
    document.getElementById("limit-form")?.reset();
    for (const box of selected()) box.checked = false;
    showSelection();
    refresh();
  }
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target === live && event.detail.xhr.status >= 500) {
    event.detail.shouldSwap = false; // the old content is better than none
    showConnection("away", "not answering");
  }
});
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.target === live) return;
  // What was asked for and is wrong has a sentence; anything else may be over in a moment.
  const { status, responseText } = event.detail.xhr;
  const sentence = new DOMParser().parseFromString(responseText, "text/html").querySelector(".empty p + p")?.textContent;
  notify(status < 500 && sentence ? sentence : "The server did not carry out the request. Try again in a moment.", true);
});
document.addEventListener("htmx:sendError", () => showConnection("away", "reconnecting"));
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target === notice) {
    notice.classList.remove("bad");
    return clearNoticeAfter(6000);
  }
  if (event.detail.target !== live) return;
  if (view === "audit") beginAudit();
  else readPosition();
  if (view === "fairness") drawFairness();
  showSelection();
  tick();
});
// The charts draw themselves and are not merged.
Idiomorph.defaults.callbacks.beforeNodeMorphed = (element) => element.id !== "charts";

// What a person opened or selected stays so when the live part is refreshed.
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
  !(name === "open" && element.tagName === "DETAILS") &&
  !(name === "checked" && element.type === "checkbox") &&
  !(name === "disabled" && element.closest?.("#selection") && !element.classList.contains("all"));

// The audit: each event once, the newest first, in a copy of the page's row template.

const ROWS_MAX = 500;
let held = []; // arrived while paused, or while an event is open
let drawing = 0;

function beginAudit() {
  position = Number(live.querySelector("[data-position]")?.dataset.position ?? 0);
  held = [];
  const pause = document.getElementById("pause");
  pause?.addEventListener("click", () => {
    const isPaused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    drawSoon();
  });
  connect();
}

function take(event) {
  held.push(event);
  if (held.length > ROWS_MAX) held = held.slice(-ROWS_MAX);
  drawSoon();
}

function drawSoon() {
  drawing ||= requestAnimationFrame(draw);
}

function isPaused() {
  if (document.getElementById("pause")?.getAttribute("aria-pressed") === "true") return "paused";
  return document.querySelector("#events details[open]") ? "paused while an event is open" : "";
}

function draw() {
  drawing = 0;
  const rows = document.getElementById("events");
  const status = document.getElementById("held");
  if (rows === null || status === null) return;
  const why = isPaused();
  status.textContent = why && held.length ? `${held.length} new, ${why}` : why;
  if (why || !held.length) return;
  const made = held.filter((event) => !document.getElementById(`event-${event.position}`)).map(rowOf);
  held = [];
  rows.prepend(...made.reverse());
  while (rows.children.length > ROWS_MAX) rows.lastElementChild.remove();
  document.getElementById("no-events")?.remove();
  tick();
}

function rowOf(event) {
  const row = document.getElementById("event-row").content.firstElementChild.cloneNode(true);
  const field = (name) => row.querySelector(`[data-field="${name}"]`);
  row.id = `event-${event.position}`;
  row.dataset.event = event.position;
  row.classList.add("new");
  row.querySelector("details").id = `details-${event.position}`;
  const time = row.querySelector("time");
  time.dateTime = event.recorded_at;
  time.title = event.recorded_at.replace("T", " ");
  field("position").textContent = event.position;
  field("type").textContent = event.type;
  field("brief").textContent = brief(event.data);
  field("data").textContent = visible(JSON.stringify(event.data, null, 2));
  field("hash").textContent = event.hash;
  if (event.user_id !== null) field("user").append(link(`${root}/jobs?user=${encodeURIComponent(event.user_id)}`, event.user_id, "name"));
  if (event.job_id !== null) field("job").append(link(`${root}/jobs/${event.job_id}`, `#${event.job_id}`, "id"));
  return row;
}

function brief({ type, user_id, ...shown }) {
  const fields = Object.entries(shown).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return visible(fields.join(" ").slice(0, 200));
}

function link(href, text, name) {
  const made = document.createElement("a");
  const isolated = document.createElement("bdi");
  made.href = href;
  made.className = name;
  made.title = visible(text);
  isolated.textContent = visible(text);
  made.append(isolated);
  return made;
}

// Control characters, and those that change the direction of text, are shown as escapes.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// Times: relative, and kept current.

// Milliseconds that this machine's clock is ahead of the log's, by the page that took least time to
// come: times are shown by the log's clock alone.
let clockAhead = Infinity;

function readClock() {
  const now = Date.parse(live.querySelector("[data-now]")?.dataset.now);
  if (now) clockAhead = Math.min(clockAhead, Date.now() - now);
}

function tick() {
  readClock();
  if (clockAhead === Infinity) return; // a page without times
  const now = Date.now() - clockAhead;
  for (const time of document.querySelectorAll("time[data-ago]")) {
    if (time.dateTime) write(time, `${duration((now - Date.parse(time.dateTime)) / 1000)} ago`);
  }
  for (const time of document.querySelectorAll("time[data-ahead]")) {
    const seconds = (Date.parse(time.dateTime) - now) / 1000;
    write(time, seconds > 0 ? `in ${duration(seconds)}` : "now");
  }
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function duration(seconds) {
  if (seconds < 1) return "0 s";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  for (const [size, unit, lower, lowerUnit] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
    if (seconds < size) continue;
    const rest = Math.floor((seconds % size) / lower);
    return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${lowerUnit}` : ""}`;
  }
}

// Jobs: a selection, and actions on it after a confirmation.

function selected() {
  return [...live.querySelectorAll("[name=id]:checked")];
}

function showSelection() {
  const count = document.getElementById("selected-count");
  if (count === null) return;
  const number = selected().length;
  count.textContent = number ? `${number} selected` : "None selected";
  for (const button of document.querySelectorAll("#selection button:not(.all)")) button.disabled = !number;
  const all = document.getElementById("select-all");
  if (all) {
    all.checked = number > 0 && number === live.querySelectorAll("[name=id]").length;
    all.indeterminate = number > 0 && !all.checked;
  }
}

live.addEventListener("change", (event) => {
  if (event.target.id === "select-all") {
    for (const box of live.querySelectorAll("[name=id]")) box.checked = event.target.checked;
  }
  if (event.target.type === "checkbox") showSelection();
});
live.addEventListener("toggle", drawSoon, true);

document.addEventListener("htmx:confirm", (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  const number = selected().length;
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-question").textContent = event.detail.question.replace(
    "{n}", number === 1 ? "this job" : `these ${number} jobs`);
  dialog.returnValue = "no";
  dialog.onclose = () => {
    if (dialog.returnValue === "yes") event.detail.issueRequest(true);
  };
  dialog.showModal();
});

let noticeEnds = 0;

function clearNoticeAfter(milliseconds) {
  clearTimeout(noticeEnds);
  noticeEnds = setTimeout(() => notice.replaceChildren(), milliseconds);
}

function notify(text, isBad) {
  notice.textContent = text;
  notice.classList.toggle("bad", isBad);
  clearNoticeAfter(8000);
}

// Charts.

const RATES = [["submitted", "--muted"], ["started", "--running"], ["completed", "--done"], ["failed", "--failed"], ["refused", "--refused"]];
const WAITS = [["wait_p50", "--running", "p50"], ["wait_p95", "--scheduled", "p95"]];
const charts = {};
let drawn = 0;

function span() {
  return new URLSearchParams(location.search).get("span") ?? "15m";
}

const USERS = ["--running", "--queued", "--done", "--scheduled", "--refused"];

function drawFairness() {
  const element = document.getElementById("fair-series");
  if (element === null) return;
  const { at, users, got, wait } = JSON.parse(element.dataset.series);
  const series = { at };
  users.forEach((_, index) => Object.assign(series, { [`got${index}`]: got[index], [`wait${index}`]: wait[index] }));
  const columns = (name) => users.map((user, index) => [`${name}${index}`, USERS[index], visible(user)]);
  chart("chart-got", series, columns("got"), (value) => value.toFixed(0));
  chart("chart-wait", series, columns("wait"), seconds);
}

async function drawCharts() {
  if (view === "fairness") return drawFairness();
  if (view !== "overview") return;
  const number = ++drawn;
  try {
    const answer = await fetch(`${root}/charts.json?span=${encodeURIComponent(span())}`, { headers: { "X-Fairlog-Position": String(position) } });
    if (!answer.ok || number !== drawn) return;
    const series = await answer.json();
    chart("chart-rates", series, RATES, (value) => (value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1)));
    chart("chart-waits", series, WAITS, seconds);
  } catch {
    showConnection("away", "reconnecting");
  }
}

function seconds(value) {
  if (value === 0) return "0 s";
  if (value >= 60) return duration(value);
  return `${value.toFixed(value < 0.01 ? 3 : value < 1 ? 2 : value < 10 ? 1 : 0)} s`;
}

// The times on an axis, in UTC as all times of a page, and in one form: with seconds if the marks are
// less than a minute apart.
function clockTimes(marks) {
  const isFine = marks.length > 1 && marks[1] - marks[0] < 60;
  return marks.map((at) => {
    const moment = new Date(at * 1000);
    const [date, time] = moment.toISOString().split("T");
    return at % 86400 === 0 ? date.slice(5) : time.slice(0, isFine ? 8 : 5);
  });
}

function chart(id, series, columns, format) {
  const place = document.getElementById(id);
  const data = [series.at, ...columns.map(([name]) => series[name])];
  const isEmpty = data.slice(1).every((column) => column.every((value) => !value));
  place.hidden = isEmpty;
  place.parentElement.querySelector(".no-data").hidden = !isEmpty;
  const names = columns.map(([name, , label]) => label ?? name).join();
  if (charts[id] && (isEmpty || charts[id].names !== names)) {
    charts[id].destroy();
    delete charts[id];
  }
  if (isEmpty) return;
  if (charts[id]) return charts[id].setData(data);
  const text = colour("--muted");
  const grid = { stroke: colour("--line"), width: 1 };
  charts[id] = new uPlot(
    {
      width: place.clientWidth,
      height: 190,
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      legend: { live: true },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, high === 0 ? 1 : 0.001)] } },
      axes: [
        { stroke: text, grid, ticks: grid, font: "11px system-ui", space: 80, values: (_, ticks) => clockTimes(ticks) },
        { stroke: text, grid, ticks: grid, font: "11px system-ui", size: 58, values: (_, ticks) => ticks.map(format) },
      ],
      series: [
        { label: "Time (UTC)", value: (_, at) => (at === null || at === undefined ? "–" : new Date(at * 1000).toISOString().slice(11, 19)) },
        ...columns.map(([name, hue, label]) => ({
          label: label ?? name,
          stroke: colour(hue),
          width: 1.5,
          spanGaps: true,
          points: { show: false },
          value: (_, value) => (value === null || value === undefined ? "–" : format(value)),
        })),
      ],
    },
    data,
    place,
  );
  charts[id].names = names;
}

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function redrawCharts() {
  for (const id of Object.keys(charts)) {
    charts[id].destroy();
    delete charts[id];
  }
  drawCharts();
}

document.getElementById("charts")?.addEventListener("click", (event) => {
  const chosen = event.target.dataset.span;
  if (!chosen) return;
  history.replaceState(null, "", root + (chosen === "15m" ? "/" : `/?span=${chosen}`));
  showSpan();
  redrawCharts();
});

function showSpan() {
  for (const button of document.querySelectorAll("[data-span]")) {
    button.setAttribute("aria-pressed", String(button.dataset.span === span()));
  }
}

addEventListener("resize", () => {
  for (const id of Object.keys(charts)) {
    charts[id].setSize({ width: document.getElementById(id).clientWidth, height: 190 });
  }
});

// The theme, the keyboard, and the page as a whole.

document.getElementById("theme").addEventListener("change", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  document.cookie = `theme=${event.target.value}; path=/; max-age=31536000; samesite=lax`;
  redrawCharts();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea, dialog");
  if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  document.getElementById("search").focus();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return disconnect();
  connect();
  refresh();
});
addEventListener("pagehide", disconnect);
addEventListener("pageshow", (event) => event.persisted && connect());

readPosition();
showSpan();
showSelection();
tick();
drawCharts();
if (view === "audit") beginAudit();
else if (view !== "error") connect();
setInterval(tick, 1000);
setInterval(() => (view === "job" || view === "overview") && source?.readyState === EventSource.OPEN && refresh(), IDLE_REFRESH_MS);
