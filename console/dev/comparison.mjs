/** The stand-in's comparison of any two executions. */
const call = (seq, command) => ({ seq, type: "tool_call", text: `bash {"command": "${command}"}` });
const result = (seq, text) => ({ seq, type: "tool_result", text });

export function comparison(a, b) {
  const side = ({ execution_id, status, reason, model, usage }, duration_ms) => {
    return { execution_id, status, reason, model, usage, duration_ms, steps: 34, tool_calls: 12, missing: [] };
  };
  const plan = { seq: 9, type: "todo", text: "completed: Read the client\nin_progress: Write the policy" };
  const fails = result(
    22,
    "failed exit 1\nE   AssertionError: slept 0.5 s, expected 7 s\n1 failed, 40 passed in 2.31s",
  );
  return {
    same: false,
    differs: ["end", "tool_calls", "output", "files"],
    common_steps: 18,
    a: side(a, 84_200),
    b: side(b, 61_800),
    rows: [
      { same: true, a: plan, b: plan },
      { same: false, a: call(21, "pytest -q"), b: call(20, "pytest -q tests/test_client.py -k retry_after") },
      { same: false, a: fails, b: result(21, "ok exit 0\n41 passed in 2.18s") },
      { same: false, a: call(23, "sed -i s/0.5/7/ src/shop/retry.py"), b: null },
      { same: false, a: { seq: 25, type: "text", text: "The wait ignored the header." }, b: null },
    ],
    steps_left_out: 0,
    files: [
      {
        path: "src/shop/retry.py",
        change: "differs",
        lines: [
          "@@ -9,4 +9,4 @@",
          " +def delay(attempt: int) -> float:",
          "-+    return 7",
          "++    return after or backoff(attempt)",
        ],
      },
      {
        path: "tests/test_retry.py",
        change: "only_b",
        lines: ["@@ -0,0 +1,2 @@", "++def test_retry_after():", "++    ..."],
      },
    ],
    files_left_out: 0,
  };
}
