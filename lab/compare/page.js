"use strict";
const charts = document.getElementById("charts");
const body = document.querySelector("tbody");
const groups = [...body.rows].filter((row) => !row.classList.contains("member")); // a row a line
const rows = [...body.rows];
const PAGE = 50;
const narrow = matchMedia("(max-width: 760px)");
const dark = matchMedia("(prefers-color-scheme: dark)");
let data, first, view = 0, printed = false;

const unzipped = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
};

// The JSON, with each place in the pool replaced by its array.
function unpacked(buffer) {
  let at = 4 + new DataView(buffer).getUint32(0, true);
  const read = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, at - 4)));
  const arrays = read.lengths.map((length) => new Float32Array(buffer.slice(at, (at += 4 * length))));
  for (const { parts } of read.traces)
    for (const part of Object.values(parts))
      for (const name of ["step", "time", "y"]) part[name] = arrays[part[name]];
  return read;
}

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

// The points that the reader has chosen, for every trace.
function points() {
  const along = chosen("along"), other = along === "step" ? "time" : "step";
  const parts = data.traces.map((trace) => trace.parts[trace.switch && chosen(trace.switch)]);
  return {
    x: parts.map((part) => part[along]),
    y: parts.map((part) => part.y),
    customdata: parts.map((part) => part[other]),
    text: parts.map((part) => part.texts),
    ...told(parts),
  };
}

// What is said of each curve at a step: of curves that are equal and shown, only of the first.
function told(parts) {
  const along = chosen("along"), of = new Map();
  const keys = data.traces.map(({ run, same, hover }, i) => {
    const style = data.styles[i], visible = (charts.data?.[i] ?? style).visible !== "legendonly";
    if (run === null || style.mode !== "lines" || !hover.step || !visible) return null;
    const key = same === null ? `${style.yaxis} ${place_of(parts[i][along])} ${place_of(parts[i].y)}` : `loss ${same} ${along}`;
    return of.set(key, [...(of.get(key) ?? []), i]) && key;
  });
  const told_elsewhere = (i) => !data.traces[i].hover.step || (keys[i] && of.get(keys[i])[0] !== i);
  return {
    hoverinfo: keys.map((_, i) => (told_elsewhere(i) ? "skip" : "all")),
    hovertemplate: data.traces.map(({ hover, same }, i) => {
      if (told_elsewhere(i)) return ""; // a template would be shown all the same
      const count = keys[i] ? of.get(keys[i]).length : 1;
      const alike = same === null ? "alike" : "the same in every bit";
      return count === 1 ? hover[along] : hover[along].replace(/<b>.*?<\/b>/, `<b>${count} runs, ${alike}:</b>`);
    }),
  };
}

const numbers = new Map(); // of arrays, which are shared where they are equal in every bit
const place_of = (array) => numbers.get(array) ?? numbers.set(array, numbers.size).get(array);
let last_told = "";

const widths = () => data.traces.map((trace, i) => trace.widths[chosen("along")] ?? data.styles[i].line?.width);

// What goes with them: titles, and axes that differences of a percent do not fill.
function frame() {
  const memory = chosen("memory"), loss = chosen("loss"), word = data.words[memory];
  const title = chosen("along") === "step" ? "step %{x:.0f}" : `%{x:.4~g} ${data.unit}`;
  return {
    "annotations[0].text": data.titles[memory],
    "annotations[1].text": loss === "validation" ? "Validation loss" : `Training loss, ${loss}`,
    "annotations[3].text": `Overhead against peak, ${word}`,
    "annotations[5].text": data.far[memory],
    "xaxis3.title.text": chosen("along") === "step" ? "step" : `time since the run began (${data.unit})`,
    "xaxis.autorangeoptions.clipmax": data.last[chosen("along")],
    ...Object.fromEntries(["", 2, 3].map((n) => [`xaxis${n}.unifiedhovertitle.text`, title])),
    "xaxis4.unifiedhovertitle.text": "overhead",
    "yaxis4.title.text": `peak GB, ${word}`,
    "yaxis.range": data.room[memory],
    "yaxis4.range": data.room[memory],
  };
}

const PAPER = 1000; // pixels: both ways of A4 scale it to letters that can be read
const place = () =>
  printed ? { ...data.places.wide, width: PAPER } : { ...data.places[narrow.matches ? "narrow" : "wide"], width: charts.clientWidth };

// The figures of the table that are of the chosen memory.
function tell() {
  const memory = chosen("memory");
  for (const head of document.querySelectorAll("th[data-follows]"))
    head.textContent = `${head.dataset.follows}, ${data.words[memory]}`;
  for (const cell of document.querySelectorAll("td[data-memory]"))
    [cell.textContent, cell.dataset.order] = JSON.parse(cell.dataset.memory)[memory];
}

function paint() {
  const by = data.colours[chosen("colour") ?? "run"];
  for (const row of rows) row.querySelector("i").style.background = by[row.dataset.entry];
  const of_runs = data.traces.flatMap(({ run }, i) => (run === null ? [] : [i]));
  const each = of_runs.map((i) => by[data.traces[i].run]);
  Plotly.restyle(charts, { "line.color": each, "marker.color": each, fillcolor: each, "textfont.color": each }, of_runs);
}

const light = (theme) => (document.documentElement.dataset.theme = theme);
const shade = () => light(chosen("theme") === "auto" ? (dark.matches ? "dark" : "light") : chosen("theme"));

const isDrawn = (run) => first.has(run);
const isShown = (run) => isDrawn(run) && charts.data[first.get(run)].visible !== "legendonly";

function show(wanted) {
  Plotly.restyle(charts, {
    visible: data.traces.map(({ run }) => (run === null || wanted(run) ? true : "legendonly")),
  });
}

// Whatever changed the charts, the table says which runs they show, and the address keeps it.
function follow() {
  for (const row of rows) row.classList.toggle("hidden", isDrawn(+row.dataset.run) && !isShown(+row.dataset.run));
  remember();
  const parts = data.traces.map((trace) => trace.parts[trace.switch && chosen(trace.switch)]);
  const now = told(parts), all = JSON.stringify(now);
  if (all !== last_told) [last_told] = [all, Plotly.restyle(charts, now)];
}

const holding = (text) => new Set(rows.filter((row) => row.textContent.toLowerCase().includes(text)).map((row) => +row.dataset.run));

function filter() {
  const held = holding(document.getElementById("filter").value.toLowerCase());
  show((run) => held.has(run));
  turn(0);
}

// Of very many rows only a page is listed, of those that hold the text in the box.
function turn(to) {
  const text = document.getElementById("filter").value.toLowerCase(), held = holding(text);
  const listed = groups.length > PAGE && text ? groups.filter((row) => held.has(+row.dataset.run)) : groups;
  view = Math.max(0, Math.min(to, Math.ceil(listed.length / PAGE) - 1));
  const from = view * PAGE, seen = new Set(groups.length > PAGE ? listed.slice(from, from + PAGE) : listed);
  for (const row of groups) row.hidden = !seen.has(row);
  for (const row of groups) unfold(row, isOpen(row) && !row.hidden);
  document.querySelector(".pages").hidden = groups.length <= PAGE;
  document.getElementById("where").textContent = `${from + 1} to ${from + seen.size} of ${listed.length.toLocaleString("en")}`;
}

const isOpen = (row) => row.querySelector(".fold")?.getAttribute("aria-expanded") === "true";
const members = (row) => rows.filter((other) => other.classList.contains("member") && other.dataset.run === row.dataset.run);

function unfold(row, open) {
  const fold = row.querySelector(".fold");
  if (!fold) return;
  if (!row.hidden) fold.setAttribute("aria-expanded", open);
  for (const member of members(row)) member.hidden = !open;
}

function sort(head) {
  const column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].dataset.order;
  const isNumber = groups.every((row) => key(row) !== "" && !isNaN(key(row)));
  groups.sort((a, b) => (isNumber ? key(a) - key(b) : key(a).localeCompare(key(b), "en", { numeric: true })));
  if (!up) groups.reverse();
  for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...groups.flatMap((row) => [row, ...(row.classList.contains("group") ? members(row) : [])]));
  turn(0);
}

// The view in the address: what is chosen otherwise than at first, and which runs are hidden.
const inputs = [...document.querySelectorAll("fieldset input")];

function remember() {
  const kept = new URLSearchParams(inputs.filter((i) => i.checked && !i.defaultChecked).map((i) => [i.name, i.value]));
  const hidden = [...first.keys()].filter((run) => !isShown(run));
  if (hidden.length) kept.set("hidden", hidden.join("."));
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const input of inputs) if (kept.get(input.name) === input.value) input.checked = true;
  return new Set((kept.get("hidden") ?? "").split(".").filter(Boolean).map(Number));
}

// On paper: light, and wide enough that it can be read on A4 either way.
function press(on) {
  printed = on;
  if (on) light("light");
  else shade();
  Plotly.relayout(charts, place());
  const { width, height } = charts._fullLayout;
  charts.style.setProperty("--ratio", `${width} / ${height}`);
  for (const svg of charts.querySelectorAll(".main-svg"))
    on ? svg.setAttribute("viewBox", `0 0 ${width} ${height}`) : svg.removeAttribute("viewBox");
}

function listen() {
  charts.on("plotly_restyle", follow);
  for (const input of inputs)
    input.addEventListener("change", () => {
      remember();
      if (input.name === "theme") return shade();
      if (input.name === "colour") return paint();
      if (input.name === "memory") tell();
      const whole = input.name === "along" ? { "xaxis.autorange": true } : {};
      Plotly.update(charts, { ...points(), "line.width": widths() }, { ...frame(), ...whole });
    });
  document.getElementById("filter").addEventListener("input", filter);
  document.getElementById("all").addEventListener("click", () => show(() => true));
  document.getElementById("none").addEventListener("click", () => show(() => false));
  document.getElementById("back").addEventListener("click", () => turn(view - 1));
  document.getElementById("on").addEventListener("click", () => turn(view + 1));
  for (const row of rows)
    row.addEventListener("click", (event) => {
      if (event.target.closest(".fold")) return unfold(row, !isOpen(row));
      const clicked = +row.dataset.run, shown = isShown(clicked);
      if (isDrawn(clicked)) show((run) => (run === clicked ? !shown : isShown(run)));
    });
  for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => sort(head));
  addEventListener("resize", () => printed || Plotly.relayout(charts, place()));
  dark.addEventListener("change", shade);
  addEventListener("beforeprint", () => press(true));
  addEventListener("afterprint", () => press(false));
}

async function start() {
  const hidden = recall();
  shade();
  const code = document.createElement("script");
  code.textContent = new TextDecoder().decode(await unzipped("plotly"));
  document.head.append(code);
  data = unpacked(await unzipped("data"));
  first = new Map();
  data.traces.forEach(({ run }, i) => run !== null && !first.has(run) && first.set(run, i));
  const drawn = points();
  data.styles.forEach((style, i) => {
    for (const key of Object.keys(drawn)) style[key] = drawn[key][i];
    if (hidden.has(data.traces[i].run)) style.visible = "legendonly";
  });
  const settings = { displaylogo: false, showSendToCloud: false, plotlyServerURL: "", doubleClick: "autosize", toImageButtonOptions: { format: "svg", filename: "compare" } };
  await Plotly.newPlot(charts, data.styles, data.layout, settings);
  await Plotly.update(charts, { "line.width": widths() }, { ...frame(), ...place() });
  tell();
  turn(0);
  listen();
  paint();
}

start().catch((error) => {
  charts.textContent = `The charts need a browser of 2023 or later (${error}); the table below is whole.`;
  charts.style.minHeight = 0;
});
