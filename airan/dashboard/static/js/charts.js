// The three charts over site time. One store of columns feeds them all.

import { byId, make } from "./dom.js";
import { fixed, isKnown, percent, timeOfDay } from "./format.js";

const uPlot = window.uPlot;
const DAY_S = 86400;
const MAX_POINTS = 3600;
const TICKS_S = [1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, DAY_S];

const css = getComputedStyle(document.documentElement);
const colour = (name) => css.getPropertyValue(`--${name}`).trim();

export class Store {
  constructor() {
    this.columns = [];
    this.points = {};
    this.revocations = [];
  }

  // Remembers when capacity was taken back, so that the charts can mark it.
  note(event) {
    if (event.kind === "lease.revoked") this.revocations.push(event.site_time_s);
  }

  replace(history) {
    this.columns = history.columns;
    this.revocations = [];
    history.events.forEach((event) => this.note(event));
    this.points = Object.fromEntries(
      history.columns.map((name, index) => [name, [...(history.points[index] ?? [])]]),
    );
  }

  add(snapshot) {
    const times = this.points.time_s;
    if (!times || times[times.length - 1] >= snapshot.time_s) return;
    const values = pointOf(snapshot);
    for (const name of this.columns) {
      this.points[name].push(values[name] ?? null);
      if (this.points[name].length > MAX_POINTS) this.points[name].shift();
    }
  }

  column(name) {
    return this.points[name] ?? [];
  }
}

function pointOf({ time_s, site_time_s, control, market }) {
  return {
    time_s, site_time_s, ...control?.shares, ...control?.slots, ...market?.requests,
    tokens_per_s: market?.tokens_per_s,
  };
}

const plus = (a, b) => a.map((value, index) => (isKnown(value) && isKnown(b[index]) ? value + b[index] : null));
const toMs = (column) => column.map((value) => (isKnown(value) ? value / 1000 : null));

class TimeChart {
  // `series`: {name, swatch, format, data(store), and uPlot's own drawing options}
  constructor(chartId, seriesId, series, { yAxis, yRange, extraScales = {}, extraAxes = [], plugins = [] }) {
    this.host = byId(chartId);
    this.series = series;
    this.readouts = series.map(() => make("b", { text: "–" }));
    byId(seriesId).replaceChildren(
      ...series.map((item, index) =>
        make("li", { attributes: { "data-swatch": item.swatch } }, [`${item.name} `, this.readouts[index]]),
      ),
      make("li", { className: "mark", text: "revoked", attributes: { title: "the RAN took a lease back" } }),
    );
    this.options = {
      ...this.size(),
      padding: [6, 18, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, from, to) => window24h(from, to) }, y: { range: yRange }, ...extraScales },
      axes: [timeAxis(), { ...axis(), ...yAxis }, ...extraAxes],
      series: [{}, ...series.map((item) => ({ points: { show: false }, ...item.draw }))],
      hooks: { setCursor: [(plot) => this.readOut(plot.cursor.idx)] },
      plugins: [...plugins, { hooks: { draw: (plot) => markRevocations(plot, this.revocations) } }],
    };
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.host);
  }

  size() {
    return { width: Math.max(200, this.host.clientWidth), height: this.host.clientHeight };
  }

  draw(store) {
    this.shown = this.series.map((item) => item.data(store));
    this.revocations = store.revocations;
    const data = [store.column("site_time_s"), ...this.series.map((item, index) => item.drawn?.(store) ?? this.shown[index])];
    if (this.plot) this.plot.setData(data);
    else this.plot = new uPlot(this.options, data, this.host);
    this.readOut(this.plot.cursor.idx);
  }

  readOut(cursorIndex) {
    if (!this.shown) return;
    this.series.forEach((item, index) => {
      const values = this.shown[index];
      this.readouts[index].textContent = item.format(values[cursorIndex ?? values.length - 1]);
    });
  }
}

function window24h(from, to) {
  if (!isKnown(from)) return [0, 3600];
  return [Math.max(from, to - DAY_S), to > from ? to : from + 60];
}

function axis() {
  return {
    stroke: colour("muted"),
    font: "11px Inter, sans-serif",
    labelFont: "11px Inter, sans-serif",
    labelSize: 18,
    labelGap: 0,
    size: 44,
    gap: 6,
    grid: { stroke: colour("line"), width: 1 },
    ticks: { show: false },
  };
}

function timeAxis() {
  return {
    ...axis(),
    size: 26,
    space: 62,
    incrs: TICKS_S,
    values: (_, splits, __, ___, step) => splits.map((value) => timeOfDay(value, step < 60)),
  };
}

const stepped = uPlot.paths.stepped({ align: 1 });

export function sharesChart() {
  const column = (name) => (store) => store.column(name);
  const onTopOfRan = (name) => (store) => plus(store.column("ran_held"), store.column(name));
  const area = (stroke, fill, paths) => ({ stroke: colour(stroke), fill: colour(fill), width: 1, ...(paths && { paths }) });
  const series = [
    { name: "AI leased", swatch: "ai-dim", data: column("ai_leased"), drawn: onTopOfRan("ai_leased"), draw: area("ai-dim", "ai-dim", stepped) },
    { name: "AI busy", swatch: "ai", data: column("ai_busy"), drawn: onTopOfRan("ai_busy"), draw: area("ai", "ai", stepped) },
    { name: "RAN held", swatch: "ran-dim", data: column("ran_held"), draw: area("ran-dim", "ran-dim", stepped) },
    { name: "RAN needed", swatch: "ran", data: column("ran_demand"), draw: area("ran", "ran") },
  ].map((item) => ({ ...item, format: (value) => percent(value) }));
  return new TimeChart("shares-chart", "shares-series", series, {
    yAxis: { label: "share of all SMs", size: 40, values: (_, splits) => splits.map((value) => percent(value)) },
    yRange: [0, 1],
  });
}

export function latencyChart() {
  const ms = (name) => (store) => toMs(store.column(name));
  const line = (stroke, more) => ({ stroke: colour(stroke), width: 1.5, ...more });
  const series = [
    { name: "p50", swatch: "ran", data: ms("p50_us"), draw: line("ran") },
    { name: "p99", swatch: "violet", data: ms("p99_us"), draw: line("violet") },
    { name: "max", swatch: "warn", data: ms("max_us"), draw: line("warn", { width: 1 }) },
    { name: "budget", swatch: "bad", data: ms("budget_us"), draw: line("bad", { dash: [7, 5] }) },
  ].map((item) => ({ ...item, format: (value) => fixed(value) }));
  const chart = new TimeChart("latency-chart", "latency-series", series, {
    yAxis: { label: () => chart?.axisLabel ?? "ms", size: 36 },
    yRange: (_, __, top) => [0, (isKnown(top) && top > 0 ? top : 1) * 1.12],
    plugins: [{ hooks: { draw: markLateSlots } }],
  });
  return chart;
}

// A dashed line where a lease was revoked: RAN took the capacity back.
function markRevocations(plot, siteTimes) {
  const context = plot.ctx;
  const { top, height } = plot.bbox;
  context.save();
  context.strokeStyle = colour("text");
  context.globalAlpha = 0.55;
  context.lineWidth = devicePixelRatio;
  context.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
  for (const siteTime of siteTimes) {
    if (siteTime < plot.scales.x.min || siteTime > plot.scales.x.max) continue;
    const x = Math.round(plot.valToPos(siteTime, "x", true));
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
  }
  context.restore();
}

// A report whose slowest slot went over the budget gets a red dot, however thin its line.
function markLateSlots(plot) {
  const [times, , , max, budget] = plot.data;
  const context = plot.ctx;
  context.fillStyle = colour("bad");
  times.forEach((time, index) => {
    if (!isKnown(max[index]) || !(max[index] > budget[index]) || time < plot.scales.x.min) return;
    context.beginPath();
    context.arc(plot.valToPos(time, "x", true), plot.valToPos(max[index], "y", true), 3 * devicePixelRatio, 0, 2 * Math.PI);
    context.fill();
  });
}

export function tokensChart() {
  const column = (name) => (store) => store.column(name);
  const series = [
    {
      name: "tokens/s", swatch: "ai", data: column("tokens_per_s"), format: (value) => fixed(value),
      draw: { stroke: colour("ai"), fill: `${colour("ai")}2e`, width: 1.5, scale: "y" },
    },
    {
      name: "waiting", swatch: "warn", data: column("waiting"), format: (value) => fixed(value, 0),
      draw: { stroke: colour("warn"), width: 1.25, scale: "requests", paths: stepped },
    },
  ];
  const fromZero = (least) => (_, __, top) => [0, Math.max(least, (top ?? 0) * 1.15)];
  return new TimeChart("tokens-chart", "tokens-series", series, {
    yAxis: { label: "tokens/s", size: 34 },
    yRange: fromZero(10),
    extraScales: { requests: { range: fromZero(4) } },
    extraAxes: [{
      ...axis(), scale: "requests", side: 1, size: 26, label: "requests waiting", grid: { show: false },
      values: (_, splits) => splits.map((value) => (Number.isInteger(value) ? value : "")),
    }],
  });
}
