/** Usage of three months, always the same: a quiet weekend, one bad day, one day without any execution. */
const DAY = 86_400_000;
const MODELS = ["anthropic/claude-sonnet-4-5", "openai/gpt-5", "offline/scripted"];

function row(runs, failed, share) {
  const input = Math.round(runs * 41_000 * share);
  return {
    runs,
    completed: runs - failed - 1,
    failed,
    cancelled: 1,
    timed_out: 0,
    rejected: 0,
    input_tokens: input,
    output_tokens: Math.round(input / 14),
    cost_usd: input * 4.2e-6,
    first_output_ms: 1_900 + 160 * (runs % 9),
    first_outputs: runs - 1,
  };
}

export function usage(by, from) {
  const first = Date.parse(from);
  const count = Math.round((Date.now() - first) / DAY + 0.5);
  const reasons = { agent_error: 14, model_error: 6, stalled: 3, out_of_memory: 1 };
  if (by !== "day") {
    const names = {
      model: MODELS,
      project: ["default", "payments", "web-shop"],
      label: ["team=core", "team=web", "source=github"],
    };
    return { usage: names[by].map((name, at) => ({ [by]: name, ...row(210 - 60 * at, 9 - at, 1 - at / 4) })), reasons };
  }
  const rows = [];
  for (let at = 0; at < count; at += 1) {
    const date = new Date(first + at * DAY);
    const weekend = date.getUTCDay() % 6 === 0;
    const back = count - at;
    if (back === 9) continue;
    rows.push({
      day: date.toISOString().slice(0, 10),
      ...row(weekend ? 4 : 17 + ((at * 7) % 11), back === 4 ? 9 : at % 3, 1),
    });
  }
  return { usage: rows, reasons };
}

export function usageCsv(by, from) {
  const rows = usage(by, from).usage;
  return [Object.keys(rows[0]), ...rows.map((one) => Object.values(one))]
    .map((cells) => `${cells.join(",")}\n`)
    .join("");
}
