// Numbers and times as the page shows them. An unknown figure is a dash, never a zero.

export const UNKNOWN = "–";
const integers = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const isKnown = (value) => value !== null && value !== undefined && Number.isFinite(value);

export function count(value) {
  return isKnown(value) ? integers.format(value) : UNKNOWN;
}

export function percent(share, digits = 0) {
  return isKnown(share) ? `${(share * 100).toFixed(digits)}%` : UNKNOWN;
}

export function usd(value) {
  if (!isKnown(value)) return UNKNOWN;
  const digits = value < 1 ? 4 : 2;
  return `$${value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

export function fixed(value, digits = 1) {
  return isKnown(value) ? value.toFixed(digits) : UNKNOWN;
}

export function milliseconds(valueMs) {
  if (!isKnown(valueMs)) return UNKNOWN;
  if (valueMs >= 10_000) return `${(valueMs / 1000).toFixed(1)} s`;
  return `${valueMs < 10 ? valueMs.toFixed(1) : integers.format(valueMs)} ms`;
}

export function factor(value) {
  return isKnown(value) ? `${Number(value.toPrecision(3))}×` : UNKNOWN;
}

export function gibibytes(mebibytes) {
  return `${integers.format(Math.round(mebibytes / 1024))} GiB`;
}

const two = (value) => String(value).padStart(2, "0");

export function timeOfDay(siteTimeS, withSeconds = false) {
  if (!isKnown(siteTimeS)) return "--:--";
  const seconds = Math.floor(((siteTimeS % 86400) + 86400) % 86400);
  const text = `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}`;
  return withSeconds ? `${text}:${two(seconds % 60)}` : text;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
