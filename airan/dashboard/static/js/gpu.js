// The GPU drawn as memory slices with its partitions on them.

import { byId, keyed, make } from "./dom.js";
import { gibibytes, percent } from "./format.js";

const ROLES = { ran: "RAN", ai: "AI", free: "Free" };
const LEAVE_MS = 400;

export function drawGpus(gpus, shares) {
  keyed(byId("gpus"), gpus, (gpu) => gpu.uuid, createGpu, updateGpu);
  drawLegend(shares);
}

function createGpu(gpu) {
  const lines = make("div", { className: "slice-lines", attributes: { "aria-hidden": "true" } });
  const ruler = make("div", { className: "ruler", attributes: { "aria-hidden": "true" } });
  for (let slice = 0; slice < (isSliced(gpu) ? gpu.memory_slices : 0); slice += 1) {
    lines.append(make("i"));
    ruler.append(make("span", { text: String(slice) }));
  }
  const slices = make("div", { className: "slices", attributes: { role: "list" } }, [lines]);
  const drawing = make("div", { className: "gpu" }, [make("p", { className: "gpu-name" }), slices, ruler]);
  drawing.style.setProperty("--slices", gpu.memory_slices);
  return drawing;
}

// Without MIG a GPU is drawn by its SMs.
function isSliced(gpu) {
  return gpu.memory_slices < gpu.sm_count;
}

function updateGpu(drawing, gpu) {
  const sliceMib = gpu.memory_mib / gpu.memory_slices;
  const slicing = isSliced(gpu) ? ` in ${gpu.memory_slices} memory slices of ${gibibytes(sliceMib)}` : "";
  const kind = gpu.simulated ? "simulated GPU" : "GPU";
  drawing.querySelector(".gpu-name").replaceChildren(
    make("b", { text: gpu.name }),
    ` ${kind} · ${gpu.sm_count} SMs · ${gibibytes(gpu.memory_mib)}${slicing}`,
  );
  const slices = drawing.querySelector(".slices");
  slices.setAttribute("aria-label", `Partitions of ${gpu.name}`);
  const left = new Map([...slices.querySelectorAll(".partition:not(.leaving)")].map((block) => [block.dataset.id, block]));
  for (const partition of gpu.partitions) {
    const block = left.get(partition.id) ?? enter(slices, partition.id);
    left.delete(partition.id);
    updatePartition(block, partition, gpu.memory_slices);
  }
  for (const block of left.values()) leave(block);
}

function enter(slices, id) {
  const block = make("div", { className: "partition entering", attributes: { role: "listitem" } }, [
    make("p", { className: "role" }, [make("span"), make("span", { className: "state" })]),
    make("p", { className: "size" }),
    make("p", { className: "size" }),
    make("p", { className: "lease" }),
  ]);
  block.dataset.id = id;
  slices.append(block);
  requestAnimationFrame(() => block.classList.remove("entering"));
  return block;
}

function leave(block) {
  block.classList.add("leaving");
  setTimeout(() => block.remove(), LEAVE_MS);
}

function updatePartition(block, partition, nSlices) {
  const [heading, profile, size, lease] = block.children;
  block.style.left = `${(partition.start / nSlices) * 100}%`;
  block.style.width = `calc(${(partition.size / nSlices) * 100}% - 6px)`;
  block.dataset.role = partition.role;
  block.dataset.state = partition.state;
  block.dataset.lease = partition.lease_state ?? "";
  const state = partition.lease_state === "revoking" ? "revoking" : partition.state;
  const role = ROLES[partition.role] ?? partition.role;
  heading.children[0].textContent = role;
  heading.children[1].textContent = state === "ready" ? "" : state;
  heading.children[1].hidden = state === "ready";
  profile.textContent = partition.profile || (partition.role === "free" ? "not assigned" : partition.kind);
  size.textContent = `${partition.sm_count} SMs · ${gibibytes(partition.memory_mib)}`;
  lease.textContent = leaseText(partition);
  block.setAttribute("aria-label", `${role}, ${profile.textContent}, ${size.textContent}, ${state}. ${lease.textContent}`);
  block.title = [profile.textContent, size.textContent, partition.id, lease.textContent].filter(Boolean).join(" · ");
}

function leaseText(partition) {
  if (partition.lease_id) return `leased to ${partition.lease_holder} · ${partition.lease_id}`;
  if (partition.role === "ai" && partition.state === "ready") return "on offer";
  return "";
}

function drawLegend(shares) {
  const rows = [
    ["ran", "RAN", `${percent(shares.ran_held)} held · ${percent(shares.ran_demand)} needed now · ${percent(shares.ran_forecast)} expected`],
    ["ai", "AI", `${percent(shares.ai_leased)} leased · ${percent(shares.ai_busy)} generating`],
  ];
  byId("gpu-legend").replaceChildren(
    ...rows.map(([swatch, name, text]) =>
      make("div", { attributes: { "data-swatch": swatch } }, [make("dt", { text: name }), make("dd", { text })]),
    ),
  );
}
