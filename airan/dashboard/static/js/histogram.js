// Distribution of slot latencies since the site's start; the budget is one of the bucket edges.

import { byId } from "./dom.js";
import { count } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 38;
const BOTTOM = 34;
const TOP = 18;

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function drawHistogram(slots) {
  const host = byId("histogram");
  const edges = slots?.histogram_edges_us ?? [];
  const counts = slots?.histogram_counts ?? [];
  if (!counts.length) return host.replaceChildren();
  const width = host.clientWidth;
  const height = host.clientHeight;
  const [from, to] = usedRange(counts, edges, slots.budget_us);
  const step = (width - LEFT) / (to - from);
  const decades = Math.max(1, Math.ceil(Math.log10(Math.max(...counts) + 1)));
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - Math.log10(value + 1) / decades);
  const x = (bucket) => LEFT + (bucket - from) * step;
  const drawing = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Slot latency distribution: ${count(slots.slots_late)} of ${count(slots.slots)} slots over the budget`,
  });
  for (let decade = 0; decade <= decades; decade += 1) {
    const value = decade === 0 ? 0 : 10 ** decade;
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
    drawing.append(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (let bucket = from; bucket < to; bucket += 1) {
    const late = bucket > 0 && edges[bucket - 1] >= slots.budget_us - 1e-6;
    const top = y(counts[bucket]);
    const bar = svg("rect", {
      class: late ? "bar late" : "bar", x: x(bucket) + 1, width: Math.max(1, step - 2), y: top,
      height: Math.max(0, height - BOTTOM - top), rx: 1.5,
    });
    bar.append(svg("title", {}, `${rangeText(bucket, edges)}: ${count(counts[bucket])} slots`));
    drawing.append(bar);
  }
  drawAxis(drawing, { slots, edges, from, to, x, step, width, height });
  drawBudget(drawing, { edges, slots, x, height, width });
  drawing.append(svg("text", { x: width, y: 9, "text-anchor": "end" }, "slots, log scale"));
  host.replaceChildren(drawing);
}

// The buckets that hold something, and those up to just beyond the budget.
function usedRange(counts, edges, budgetUs) {
  const used = counts.flatMap((value, index) => (value > 0 ? [index] : []));
  const atBudget = edges.findIndex((edge) => edge >= budgetUs - 1e-6);
  const first = Math.max(0, Math.min(used[0] ?? 0, atBudget < 0 ? 0 : atBudget) - 1);
  const last = Math.max(used.at(-1) ?? 0, atBudget + 1);
  return [first, Math.min(counts.length, last + 2)];
}

function drawAxis(drawing, { slots, edges, from, to, x, step, width, height }) {
  const every = Math.max(1, Math.ceil(34 / step));
  for (let bucket = from; bucket < to && bucket < edges.length; bucket += 1) {
    if ((bucket - from) % every) continue;
    drawing.append(svg("text", { x: Math.min(x(bucket + 1), width - 8), y: height - BOTTOM + 14, "text-anchor": "middle" }, milliseconds(edges[bucket])));
  }
  drawing.append(svg("text", { x: (LEFT + width) / 2, y: height - 3, "text-anchor": "middle" }, slots.slowdown > 1 ? `slot latency, ms (clock slowed ${slots.slowdown}×)` : "slot latency, ms"));
}

function drawBudget(drawing, { edges, slots, x, height, width }) {
  const bucket = edges.findIndex((edge) => Math.abs(edge - slots.budget_us) <= 1e-6 * slots.budget_us);
  if (bucket < 0) return;
  const at = x(bucket + 1);
  const rightSide = at > width - 90;
  drawing.append(svg("line", { class: "budget", x1: at, x2: at, y1: TOP - 4, y2: height - BOTTOM }));
  drawing.append(svg("text", {
    class: "budget-label", x: at + (rightSide ? -6 : 6), y: TOP + 4, "text-anchor": rightSide ? "end" : "start",
  }, `budget ${milliseconds(slots.budget_us)} ms`));
}

const milliseconds = (us) => String(Number((us / 1000).toPrecision(3)));
const short = (value) => (value >= 1e6 ? `${value / 1e6}M` : value >= 1000 ? `${value / 1000}k` : String(value));

function rangeText(bucket, edges) {
  if (bucket === 0) return `up to ${milliseconds(edges[0])} ms`;
  if (bucket >= edges.length) return `over ${milliseconds(edges.at(-1))} ms`;
  return `${milliseconds(edges[bucket - 1])} to ${milliseconds(edges[bucket])} ms`;
}
