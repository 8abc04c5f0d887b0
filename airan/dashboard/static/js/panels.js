// Header, tiles, cells, engines and events: everything that is text and bars.

import { byId, keyed, make, setText } from "./dom.js";
import { UNKNOWN, count, duration, factor, isKnown, milliseconds, percent, timeOfDay, usd } from "./format.js";

const SERVICE_NAMES = { control: "Orchestrator", l1: "Layer 1", engine: "Engine", gateway: "Gateway" };
const ENGINE_PHASES = { ready: "serving", draining: "pausing", no_lease: "waiting for a lease", cold: "unloaded until it is wanted", warming: "loading its model", lost: "away" };
const MAX_EVENTS = 200;

export function drawHeader(snapshot) {
  setText("site", snapshot.site);
  setText("clock", snapshot.site_time_of_day);
  setText("clock-note", snapshot.day_speed === 1 ? "site time" : `site time, ${factor(snapshot.day_speed)} wall clock`);
  document.title = `${snapshot.site} ${snapshot.site_time_of_day} · airan`;
  const label = byId("label");
  label.hidden = !snapshot.label;
  setText("label", snapshot.label.replace(/(\d)x\b/g, "$1×"));
}

export function drawPolicy(control) {
  const policy = byId("policy");
  const plan = byId("plan");
  if (!control) {
    policy.textContent = "";
    plan.textContent = "";
    return;
  }
  const { kind, ran_share, headroom, notice_ms } = control.policy;
  const detail = kind === "static" ? `RAN share ${percent(ran_share)}` : `headroom ${percent(headroom)}`;
  policy.replaceChildren("Policy ", make("b", { text: kind }), ` · ${detail} · revocation notice ${notice_ms} ms`);
  if (!control.plan) plan.textContent = "no plan yet";
  else plan.replaceChildren("Plan ", make("b", { text: `${control.plan.generation}` }), ` ${control.plan.state}: ${control.plan.reason}`);
}

export function drawProblems({ problems, time_s }) {
  const away = new Map(problems.map((problem) => [problem.service, problem]));
  for (const item of byId("services").children) {
    // Behind an orchestrator or gateway that is away nothing is known of Layer 1 and the engine.
    const hidden = { l1: "control", engine: "gateway" }[item.dataset.service];
    const state = away.has(item.dataset.service) ? "away" : away.has(hidden) ? "unknown" : "up";
    item.dataset.state = state;
    item.title = away.get(item.dataset.service)?.message ?? "";
    item.querySelector(".sr-only").textContent = state;
  }
  for (const panel of document.querySelectorAll("[data-needs]")) {
    const problem = panel.dataset.needs.split(" ").map((name) => away.get(name)).find(Boolean);
    panel.toggleAttribute("data-away", Boolean(problem));
    const text = problem && `${SERVICE_NAMES[problem.service]} ${problem.message}, for ${duration(time_s - problem.since_s)}`;
    showProblem(panel, problem, text);
  }
  const both = problems.filter((problem) => ["control", "gateway"].includes(problem.service));
  showProblem(document.querySelector(".events-panel"), both[0],
    `No events from ${both.map((problem) => SERVICE_NAMES[problem.service].toLowerCase()).join(" and ")} just now`);
}

function showProblem(panel, problem, text) {
  const place = panel.querySelector(".problem");
  if (place) {
    place.hidden = !problem;
    if (problem) place.textContent = text;
  } else if (problem) {
    panel.querySelector(".note").textContent = `${SERVICE_NAMES[problem.service]} is away`;
  }
}

export function drawTiles({ control, market }) {
  const utilisation = control?.utilisation;
  setText("utilisation", percent(utilisation?.total, 1));
  setText("utilisation-factor", utilisation?.ran_only > 0 ? `${(utilisation.total / utilisation.ran_only).toFixed(1)}× RAN alone` : "");
  setText("utilisation-note", utilisation ? `RAN alone ${percent(utilisation.ran_only, 1)} · AI adds ${percent(utilisation.ai_busy, 1)}` : "");
  byId("utilisation-bar").style.width = percent(utilisation?.total ?? 0, 1);
  byId("ran-only-bar").style.width = percent(utilisation?.ran_only ?? 0, 1);
  drawSlots(control?.slots);
  drawMarket(market);
}

function drawSlots(slots) {
  setText("slots-late", count(slots?.slots_late));
  byId("slots-late").className = !slots ? "" : slots.slots_late === 0 ? "good" : "bad";
  setText("slots-total", slots ? `of ${count(slots.slots)}` : "");
  if (!slots) return;
  const stalls = slots.stalls ? ` · ${count(slots.stalls)} stalls` : "";
  setText("slots-note", `${count(slots.slots_dropped)} dropped · ${count(slots.crc_failed)} CRC failed${stalls}`);
}

function drawMarket(market) {
  setText("revenue", usd(market?.revenue_usd));
  setText("requests-completed", count(market?.requests.completed));
  setText("tokens-lost", count(market?.tokens.lost));
  byId("tokens-lost").className = !market ? "" : market.tokens.lost === 0 ? "good" : "bad";
  setText("tokens-total", market ? `of ${count(market.tokens.output)}` : "");
  setText("ttft", milliseconds(market?.ttft_p50_ms));
  if (!market) return;
  const { requests, tokens } = market;
  setText("revenue-note", `${count(tokens.input)} tokens in · ${count(tokens.output)} out`);
  const failed = requests.failed ? ` · ${count(requests.failed)} failed` : "";
  setText("requests-note", `${count(requests.running)} running · ${count(requests.waiting)} waiting${failed}`);
  setText("tokens-note", `${count(requests.preempted)} requests preempted`);
  setText("ttft-note", isKnown(market.ttft_p99_ms) ? `p99 ${milliseconds(market.ttft_p99_ms)}` : "no request yet");
}

export function drawCells(cells) {
  const simulated = cells.filter((cell) => !cell.live).length;
  setText("cells-note", cells.length ? `${cells.length - simulated} decoded · ${simulated} simulated load` : "");
  const ordered = [...cells].sort((a, b) => b.live - a.live);
  keyed(byId("cells"), ordered, (cell) => `${cell.id}/${cell.live}`, createCell, updateCell);
}

function createCell(cell) {
  const parts = [make("span", { className: "name", text: cell.id })];
  if (cell.live) parts.push(make("span", { className: "tag", text: "decoded" }));
  parts.push(make("span", { className: "track" }, [make("i")]), make("span", { className: "value" }));
  return make("li", { className: cell.live ? "live" : "" }, parts);
}

function updateCell(row, cell) {
  row.querySelector(".track i").style.width = percent(cell.load ?? 0);
  row.querySelector(".value").textContent = percent(cell.load);
  row.title = `${cell.id}: ${percent(cell.load)} of ${cell.n_prb} PRBs, ${cell.live ? "slots decoded" : "simulated load"}`;
}

export function drawEngines(market) {
  byId("engines").replaceChildren(
    ...(market?.engines ?? []).map((engine) =>
      make("li", { attributes: { title: engine.url } }, [
        make("b", { text: engine.name }),
        ` ${ENGINE_PHASES[engine.phase] ?? engine.phase} · ${engine.running} of ${engine.max_concurrent} requests at once${engine.lease_id ? ` · ${engine.lease_id}` : ""}`,
      ]),
    ),
  );
}

export function drawLatencyNotes(slots) {
  const note = byId("histogram-note");
  if (!slots) {
    note.textContent = "";
    return UNKNOWN;
  }
  const slowed = slots.slowdown > 1 ? `slowed slot clock, ${factor(slots.slowdown)}` : "slot clock at radio speed";
  note.textContent = `${slots.device} · busy ${percent(slots.busy_share)}`;
  return `ms, ${slowed}`;
}

export function addEvent(event) {
  const list = byId("events");
  const key = `${event.source}:${event.seq}`;
  if ([...list.children].some((item) => item.dataset.key === key)) return;
  list.querySelector(".empty")?.remove();
  const row = make("li", {}, [
    make("time", { text: timeOfDay(event.site_time_s) }),
    make("span", { className: "kind", text: event.kind, attributes: { title: `${event.kind}, ${event.severity}` } }),
    make("span", { className: "message", text: event.message }),
  ]);
  row.dataset.severity = event.severity;
  row.dataset.key = key;
  list.prepend(row);
  while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
}

export function clearEvents() {
  byId("events").replaceChildren(make("li", { className: "empty", text: "No events yet" }));
}

