// Formats quantities as the command does (cli/render.py): a test compares the two.

/** Returns `number` with this many digits after the point; a half goes to the even digit, as in Python. */
function fixed(number, digits) {
  // A binary fraction is a half of the last digit only if this is an odd integer.
  const isHalf = Math.abs((number * 2 ** (digits + 1)) % 2) === 1;
  if (!isHalf) return number.toFixed(digits);
  const low = Math.floor(number * 10 ** digits);
  return ((low % 2 === 0 ? low : low + 1) / 10 ** digits).toFixed(digits);
}

/** Formats seconds in two units at most: 350ms, 4.2s, 3m12s, 5h7m, 2d4h; - for null. */
export function duration(seconds) {
  if (seconds == null) return "-";
  if (seconds < 0.9995) return `${fixed(Math.max(seconds, 0) * 1000, 0)}ms`;
  if (seconds < 9.95) return `${fixed(seconds, 1)}s`;
  const whole = Number(fixed(seconds, 0));
  for (const [big, small, names] of [[86400, 3600, "dh"], [3600, 60, "hm"], [60, 1, "ms"]]) {
    if (whole < big) continue;
    const rest = Math.floor((whole % big) / small);
    return `${Math.floor(whole / big)}${names[0]}${rest ? `${rest}${names[1]}` : ""}`;
  }
  return `${whole}s`;
}

/** Formats bytes in binary units with three digits at most: 640K, 13.2M, 1.5G; - for null. */
export function size(bytes) {
  if (bytes == null) return "-";
  let count = bytes;
  for (const unit of ["B", "K", "M", "G"]) {
    if (count < 999.5) return fixed(count, unit !== "B" && count < 99.95 ? 1 : 0) + unit;
    count /= 1024;
  }
  return `${fixed(count, 1)}T`;
}

/** Formats milliseconds: 3.2ms, 350ms, 4.2s; - for null. */
export function milliseconds(ms) {
  if (ms == null) return "-";
  return ms < 9.95 ? `${fixed(ms, 1)}ms` : duration(ms / 1000);
}

/** Formats a share of one processor: 37%; - for null. */
export function percent(value) {
  return value == null ? "-" : `${fixed(value, 0)}%`;
}

/** Formats a number of things with separators of thousands: 12,345. */
export function count(value) {
  return value == null ? "-" : Math.round(value).toLocaleString("en-US");
}

/** Formats cents as currency without a name: 0.12 is 12 cents; - for none. */
export function cost(cents) {
  return cents ? `${fixed(cents, cents < 10 ? 2 : 0)}¢` : "-";
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Formats an RFC 3339 time as the clock of this browser; with the day unless it is today. */
export function clock(stamp, now = new Date()) {
  if (!stamp) return "-";
  const date = new Date(stamp);
  const time = CLOCK.format(date);
  return date.toDateString() === now.toDateString() ? time : `${DAY.format(date)} ${time}`;
}

/** Formats the time since an RFC 3339 time. */
export function ago(stamp, nowMs = Date.now()) {
  return stamp ? `${duration(Math.max(0, Math.round((nowMs - Date.parse(stamp)) / 1000)))} ago` : "-";
}

/** Returns `text` with at most `most` characters. */
export function cut(text, most) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Returns the end of a task's id, by which people tell tasks apart. */
export function shortId(id) {
  return id.length > 12 ? id.slice(0, 12) : id;
}

/** Formats a noun with its number: 1 worker, 3 workers. */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
