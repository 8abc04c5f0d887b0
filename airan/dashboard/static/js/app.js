// Puts the stream and the panels together.

import { byId } from "./dom.js";
import { Store, latencyChart, sharesChart, tokensChart } from "./charts.js";
import { drawGpus } from "./gpu.js";
import { drawHistogram } from "./histogram.js";
import {
  addEvent, clearEvents, drawCells, drawEngines, drawHeader, drawLatencyNotes, drawPolicy, drawProblems, drawTiles,
} from "./panels.js";
import { Stream } from "./stream.js";

const STATES = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting" };
const NO_SHARES = { ran_held: null, ran_demand: null, ran_forecast: null, ai_leased: null, ai_busy: null };

const store = new Store();
const latency = latencyChart();
const charts = [sharesChart(), latency, tokensChart()];
let latest = null;

function show(snapshot) {
  latest = snapshot;
  const { control, market } = snapshot;
  drawHeader(snapshot);
  drawPolicy(control);
  drawGpus(control?.gpus ?? [], control?.shares ?? NO_SHARES);
  drawTiles(snapshot);
  drawCells(control?.cells ?? []);
  drawEngines(market);
  latency.axisLabel = drawLatencyNotes(control?.slots);
  drawHistogram(control?.slots);
  // Last: it overwrites notes of tiles whose service is away.
  drawProblems(snapshot);
}

function onState(state) {
  if (document.body.dataset.connection === state) return;
  document.body.dataset.connection = state;
  byId("connection").querySelector("span").textContent = STATES[state];
  const banner = byId("banner");
  banner.hidden = state !== "reconnecting";
  banner.textContent = banner.hidden ? "" : "Connection to the dashboard lost. Reconnecting; the figures below are old.";
}

new Stream("/events", {
  onHistory(history) {
    store.replace(history);
    clearEvents();
    history.events.forEach(addEvent);
    if (history.snapshot) show(history.snapshot);
    charts.forEach((chart) => chart.draw(store));
  },
  onSnapshot(snapshot) {
    store.add(snapshot);
    show(snapshot);
    charts.forEach((chart) => chart.draw(store));
  },
  onEvent(event) {
    store.note(event);
    addEvent(event);
  },
  onState,
});

new ResizeObserver(() => latest && drawHistogram(latest.control?.slots)).observe(byId("histogram"));
