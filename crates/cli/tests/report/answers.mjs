// Writes an answers file and its sidecar for the test of the report in a browser:
//   node answers.mjs FOLDER [ROWS [plain|hostile]]
// FOLDER gets answers.csv, answers.csv.run.json and totals.json. The same arguments make the same
// files.
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

const [folder, rows = "3000", style = "hostile"] = process.argv.slice(2);
if (!folder || !["plain", "hostile"].includes(style)) {
  console.error("usage: node answers.mjs FOLDER [ROWS [plain|hostile]]");
  process.exit(2);
}

const HEADER =
  "url,name,row,ok,status_code,final_url,redirects,content_type,bytes,attempts,queued_ms," +
  "backoff_ms,elapsed_ms,finished_at,error_kind,error";
const KINDS = [
  "bad_url", "dns", "connect", "tls", "timeout", "reset", "protocol", "too_many_redirects",
  "body_too_large", "http_status", "rate_limited", "retry_after", "host_down", "robots",
  "interrupted", "deadline",
];
const HOSTILE = [
  "</script><script>alert(1)</script>",
  "javascript:alert(1)",
  "\" onload=\"alert(1)\" x=\"",
  "\u202egnp.exe \u2066left open",
  "nul \0, bell \u0007, escape \u001b[31m, next line \u0085",
  "</style><style>body{display:none}</style>",
  "<img src=x onerror=alert(1)><svg onload=alert(1)>",
  "<meta http-equiv=refresh content='0;url=http://192.0.2.1/'>",
  "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u{1f389}\u{1f468}\u200d\u{1f469}\u200d\u{1f467}",
  "x".repeat(10_000),
  "\u{1f389}".repeat(2_500),
  "]]>--><!-- <![CDATA[ &amp; &#60;script&#62;",
];

let state = 20260102n;
function below(end) {
  state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
  return Number((state >> 33n) % BigInt(end));
}
const quoted = (cell) =>
  /[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell);
const pick = (list) => list[below(list.length)];

const START = Date.parse("2026-01-02T03:04:05.000Z");
const WORKERS = 50;
const free = Array(WORKERS).fill(START);
const totals = { rows: 0, ok: 0, failed: 0, attempts: 0 };
const spent = { server: 0, connect: 0, "host limit": 0, backoff: 0, rate: 0 };

function answer(row) {
  const host = Math.min(below(12), below(12));
  const origin = `http://user:pa55@host-${host}.example:8080`;
  let url = `${origin}/items/${row}?token=s3cret`;
  const isOutage = host === 2 && row > 0.55 * rows && row < 0.62 * rows;
  let kind = "";
  if (isOutage) kind = pick(["connect", "connect", "timeout"]);
  else if (below(100) < 3) kind = pick(KINDS);
  else if (host === 1 && below(100) < 6) kind = "http_status";
  const status = { "": 200, http_status: pick([404, 404, 410, 500]), rate_limited: 429 }[kind] ?? "";
  const isSent = !["bad_url", "host_down", "robots", "interrupted"].includes(kind);
  const attempts = isSent ? 1 + (below(20) === 0 || isOutage ? 1 + below(2) : 0) : 0;
  const queued = below(60);
  const backoff = attempts > 1 ? (attempts - 1) * (400 + below(1200)) : 0;
  let elapsed = isSent ? 12 + host * 9 + Math.round(40 * Math.exp(below(300) / 100)) : 0;
  if (kind === "timeout") elapsed = 30_000 + below(40);
  if (below(400) === 0) elapsed += 2_500 + below(5_000);
  let worker = 0;
  for (let other = 1; other < WORKERS; other++) if (free[other] < free[worker]) worker = other;
  const finished = free[worker] + Math.round(queued / 8) + elapsed;
  free[worker] = finished;
  spent.server += elapsed * 0.92;
  spent.connect += elapsed * 0.08;
  spent["host limit"] += Math.round(queued / 8);
  let redirects = 0;
  if (kind === "" && host === 3 && below(8) === 0) {
    redirects = 1;
    url = `${origin}/login?next=/items/${row}`;
  }
  let name = `Item ${row}`;
  let error = kind === "" ? "" : `${kind.replaceAll("_", " ")} at ${url}`;
  if (style === "hostile" && below(4) === 0) {
    const cell = pick(HOSTILE);
    name = cell;
    if (kind !== "") error = cell;
    if (below(2) === 0) url = pick([`${origin}/${cell}`, cell]);
  }
  const isOk = kind === "";
  totals.rows += 1;
  totals[isOk ? "ok" : "failed"] += 1;
  totals.attempts += attempts;
  return [
    url, name, row, isOk, status, kind === "bad_url" ? "" : url, redirects,
    status === "" ? "" : "text/html", status === "" ? "" : 200 + below(40_000), attempts, queued,
    backoff, elapsed, new Date(finished).toISOString(), kind, error,
  ].map(quoted).join(",");
}

mkdirSync(folder, { recursive: true });
const file = openSync(join(folder, "answers.csv"), "w");
let batch = HEADER + "\n";
for (let row = 1; row <= Number(rows); row++) {
  batch += answer(row) + "\n";
  if (batch.length > 1 << 20) {
    writeSync(file, batch);
    batch = "";
  }
}
writeSync(file, batch);
closeSync(file);

const end = Math.max(...free);
const seconds = Object.fromEntries(Object.entries(spent).map(([cause, ms]) => [cause, ms / 1000]));
const used = Object.values(seconds).reduce((sum, value) => sum + value, 0);
seconds.idle = ((end - START) / 1000) * WORKERS - used;
const hostile = style === "hostile" ? HOSTILE : ["Retry-After"];
const sidecar = {
  runs: [
    {
      command: "fetch",
      version: "0.1.0",
      started_at: new Date(START).toISOString(),
      ended_at: new Date(end).toISOString(),
      ended: "complete",
      settings: [["--workers", "50"], ["--per-host-rate", "5/s"], ["--retries", "2"],
        ["--user-agent", hostile[0]]],
      workers: WORKERS,
      rows: totals.rows,
      bad: 0,
      ok: totals.ok,
      failed: totals.failed,
      not_started: 0,
      cause_seconds: seconds,
      pauses: hostile.map((cause, at) => ({
        host: `http://host-${at % 12}.example:8080`,
        at: new Date(START + at * 1000).toISOString(),
        seconds: 10 + at,
        cause,
      })),
      pauses_left_out: 0,
    },
  ],
};
writeFileSync(join(folder, "answers.csv.run.json"), JSON.stringify(sidecar));
writeFileSync(join(folder, "totals.json"), JSON.stringify(totals) + "\n");
