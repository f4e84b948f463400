"use strict";
// What the pages do beyond links and forms: keys, copying, times, plots, and what is new.

const root = document.documentElement;
root.classList.add("js");
const locale = root.lang === "en" ? "en-GB" : root.lang;
const $ = (selector, place = document) => [...place.querySelectorAll(selector)];

// Times are in the zone of the reader. The server writes them so once it knows the zone.

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const parts = { day: {}, minute: { hour: "2-digit", minute: "2-digit" }, second: { hour: "2-digit", minute: "2-digit", second: "2-digit" } };

function showTimes(place) {
  for (const time of $("time[data-form]", place)) {
    if (time.dataset.zone === zone) continue;
    const form = { day: "numeric", month: "short", year: "numeric", ...parts[time.dataset.form], hourCycle: "h23" };
    time.textContent = new Intl.DateTimeFormat(locale, form).format(new Date(time.dateTime));
    time.dataset.zone = zone;
  }
}

function keepZone() {
  for (const field of $("details.asof:not(.set) [name=timezone]")) field.value = zone;
  document.cookie = `ledger-zone=${zone}; path=/; max-age=31536000; samesite=strict`;
}

// Copying.

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) print();
});

// Keys: `/` finds; g and a letter go to a section; j and k go through the rows of a list.

const typing = (node) => node.closest("input, textarea, select, [contenteditable]");
let isGoing = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    for (const open of $("details.asof[open], details.menu[open]")) {
      open.open = false;
      open.querySelector("summary").focus();
    }
    if (event.target.id === "find") event.target.blur();
    return;
  }
  if (typing(event.target)) return;
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("find").select();
  } else if (event.key === "g") {
    isGoing = true;
    setTimeout(() => { isGoing = false; }, 1000);
  } else if (isGoing) {
    const link = $("nav.wide a").find((one) => one.dataset.key === event.key);
    if (link) link.click();
    isGoing = false;
  } else if (event.key === "j" || event.key === "k") {
    goToRow(event.key === "j" ? 1 : -1);
  }
});

function goToRow(step) {
  const links = $("tbody tr").map((row) => row.querySelector("a")).filter(Boolean);
  if (!links.length) return;
  const now = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  links[Math.min(links.length - 1, Math.max(0, now < 0 ? 0 : now + step))].focus();
}

document.addEventListener("click", (event) => {
  for (const open of $("details.asof[open], details.menu[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

// Plots. Each is of the table beside it, so it shows nothing that the table does not have.

const numberOf = (cell) => {
  const exact = cell.querySelector("time, data");
  if (!exact) return cell.textContent.trim() === "" ? null : Number(cell.textContent);
  return exact.dateTime ? new Date(exact.dateTime).getTime() / 1000 : Number(exact.value);
};
const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function seriesOf(table) {
  const names = $("thead th", table).map((cell) => cell.textContent.trim());
  const rows = $("tbody tr", table).map((row) => [...row.cells]);
  const columns = names.map((_, place) => rows.map((cells) => numberOf(cells[place])));
  const isTime = rows.length > 0 && rows[0][0].querySelector("time") !== null;
  return { names, columns, isTime };
}

function grouped(value) {
  return value === null || value === undefined ? "–" : new Intl.NumberFormat(root.lang, { maximumFractionDigits: 8 }).format(value);
}

function compact(value) {
  return new Intl.NumberFormat(root.lang, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

function dated(seconds, span) {
  const form = span > 2 * 86400 ? { day: "numeric", month: "short" } : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Intl.DateTimeFormat(locale, form).format(new Date(seconds * 1000));
}

const paths = {
  step: () => uPlot.paths.stepped({ align: 1 }),
  bars: () => uPlot.paths.bars({ size: [0.7, 48] }),
  line: () => uPlot.paths.linear(),
};

// The axis of one point is a day wide, or one. Bars have room for the halves of the outer ones.
function ranged(kind, places, isTime) {
  const first = Math.min(...places), last = Math.max(...places);
  if (first === last) return [first - (isTime ? 43200 : 0.5), last + (isTime ? 43200 : 0.5)];
  const half = kind === "bars" ? (last - first) / (places.length - 1) / 2 : 0;
  return [first - half, last + half];
}

function optionsOf(figure, { names, columns, isTime }, width) {
  const kind = figure.dataset.plot;
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const series = names.slice(1).map((label, place) => ({
    label,
    stroke: colour(`--plot-${(place % 5) + 1}`),
    fill: kind === "bars" ? colour(`--plot-${(place % 5) + 1}`) + "b0" : undefined,
    dash: place % 2 ? [6, 4] : undefined,
    width: kind === "bars" ? 0 : 1.75,
    paths: paths[kind](),
    points: { show: kind !== "bars" && columns[0].length === 1 },
    value: (_, value) => grouped(value),
  }));
  return {
    width,
    height: Number(figure.dataset.height || 220),
    padding: [10, 8, 0, 0],
    scales: { x: { time: isTime, range: ranged(kind, columns[0], isTime) } },
    cursor: { drag: { x: false, y: false }, points: { size: 7 } },
    axes: [{ ...axis, grid: { show: false }, size: 32, space: Math.max(...columns[0]) - Math.min(...columns[0]) > 2 * 86400 ? 70 : 110, ...(isTime && { values: (plot, ticks) => ticks.map((tick) => dated(tick, ticks.at(-1) - ticks[0])) }) }, { ...axis, size: 62, values: (_, ticks) => ticks.map(compact) }],
    series: [{ label: names[0], ...(isTime && { value: (_, value) => (value === null ? "–" : dated(value, 0)) }) }, ...series],
  };
}

function draw(figure) {
  const canvas = figure.querySelector(".canvas");
  const data = seriesOf(figure.querySelector("details table"));
  if (data.columns.length < 2 || data.columns[0].length === 0) return;
  const order = data.columns[0].map((_, place) => place).sort((a, b) => data.columns[0][a] - data.columns[0][b]);
  const columns = data.columns.map((column) => order.map((place) => column[place]));
  canvas.replaceChildren();
  const options = optionsOf(figure, data, canvas.clientWidth);
  options.hooks = { ready: [(plot) => plot.setLegend({ idx: order.length - 1 })] };
  new uPlot(options, columns, canvas);
}

function showPlots(place) {
  for (const figure of $("figure[data-plot]", place)) {
    if (window.uPlot === undefined) return;
    if (!figure.dataset.isDrawn) figure.querySelector("details").open = false;
    figure.dataset.isDrawn = "yes";
    draw(figure);
  }
}

let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => showPlots(document), 120);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showPlots(document));

// What is new: a page that names a stream of events loads itself again when there are some, at most
// every two seconds. It stands still while the reader scrolls, selects or types.

const QUIET_MS = 2000;
let events = null, isDue = false, loadedAt = 0;

function isBusy() {
  const open = document.querySelector("details.asof[open], details.menu[open], main details[open] form");
  const active = document.activeElement;
  return window.scrollY > 40 || open || typing(active) || !getSelection().isCollapsed || $("main").some((main) => main !== active && main.contains(active));
}

function load() {
  isDue = false;
  loadedAt = Date.now();
  $(".new").forEach((button) => button.remove());
  htmx.ajax("GET", location.href, { target: "#content", select: "#content", swap: "outerHTML" });
}

function offer() {
  if ($(".new").length) return;
  const button = document.createElement("button");
  button.className = "new";
  button.textContent = document.getElementById("content").dataset.new;
  button.addEventListener("click", () => { scrollTo({ top: 0 }); load(); });
  document.body.append(button);
}

function note() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => (isBusy() ? (isDue = false, offer()) : load()), Math.max(250, loadedAt + QUIET_MS - Date.now()));
}

function follow() {
  const place = document.getElementById("content");
  if (!place || !place.dataset.live || events || document.hidden) return;
  events = new EventSource(place.dataset.live);
  for (const name of (place.dataset.events || "transaction.posted transaction.declined transaction.reversed hold.placed hold.captured hold.released hold.expired schedule.created schedule.executed schedule.cancelled account.opened account.policy_changed").split(" ")) {
    events.addEventListener(name, note);
  }
}

function rest() {
  if (events) events.close();
  events = null;
}

// A browser has few connections to a host: a page that nobody sees gives its one back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    rest();
  } else if (document.getElementById("content")?.dataset.live) {
    follow();
    note();
  }
});
window.addEventListener("pagehide", rest);
window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });

function show(place) {
  showTimes(place);
  showPlots(place);
}

document.addEventListener("htmx:afterSwap", () => show(document));
document.addEventListener("DOMContentLoaded", () => {
  keepZone();
  show(document);
  follow();
});
