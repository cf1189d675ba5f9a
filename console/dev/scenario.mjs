/** A recorded-looking run, for developing the console without a stack. Never part of the build. */

const E = "\x1b[";
const green = (text) => `${E}32m${text}${E}0m`;
const red = (text) => `${E}31m${text}${E}0m`;
const bold = (text) => `${E}1m${text}${E}0m`;

const TODO = [
  "Read the HTTP client and its tests",
  "Add a retry policy with exponential backoff and jitter",
  "Use it for idempotent requests only",
  "Cover timeouts, 429 and connection resets",
  "Run the test suite",
];

const usage = (n) => ({
  requests: n,
  input_tokens: 4_210 * n,
  output_tokens: 612 * n,
  reasoning_tokens: 180 * n,
  cache_read_tokens: 2_900 * n,
  cache_write_tokens: 0,
  cost_usd: Math.round(0.0143 * n * 1e4) / 1e4,
});

const todo = (done) => ({
  items: TODO.map((content, at) => ({
    content,
    status: at < done ? "completed" : at === done ? "in_progress" : "pending",
  })),
});

const PYTEST_FAIL = `${bold("============================= test session starts ==============================")}
collected 41 items

tests/test_client.py ${green("....................")}${red("F")}${green("..............")}                       [ 85%]
tests/test_retry.py ${green("......")}                                              [100%]

=================================== FAILURES ===================================
${red(bold("_______________________ test_retry_after_header_is_honoured ____________________"))}

    async def test_retry_after_header_is_honoured(client, clock):
        client.responses = [Response(429, headers={"Retry-After": "7"}), Response(200)]
>       await client.get("/orders")
${red("E       AssertionError: slept 0.5 s, expected 7 s")}

${red("tests/test_client.py")}:188: AssertionError
${red("=================== 1 failed, 40 passed in 2.31s ===================")}
`;

const PYTEST_OK = `${bold("============================= test session starts ==============================")}
collected 41 items

tests/test_client.py ${green("...................................")}                     [ 85%]
tests/test_retry.py ${green("......")}                                              [100%]

${green(bold("============================== 41 passed in 2.18s =============================="))}
`;

export const PATCH = `diff --git a/src/shop/client.py b/src/shop/client.py
index 3f1c2aa..9b0e4d1 100644
--- a/src/shop/client.py
+++ b/src/shop/client.py
@@ -1,9 +1,11 @@
 from __future__ import annotations
 
 import httpx
 
+from shop.retry import RetryPolicy, is_retryable
+
 
 class Client:
     """Talks to the order service."""
 
-    def __init__(self, base_url: str, timeout: float = 10.0) -> None:
+    def __init__(self, base_url: str, timeout: float = 10.0, retry: RetryPolicy | None = None) -> None:
         self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout)
+        self._retry = retry or RetryPolicy()
@@ -18,8 +20,15 @@ class Client:
     async def _send(self, request: httpx.Request) -> httpx.Response:
-        response = await self._http.send(request)
-        response.raise_for_status()
-        return response
+        for attempt in self._retry.attempts(request.method):
+            try:
+                response = await self._http.send(request)
+            except httpx.TransportError as error:
+                await attempt.failed(error)
+                continue
+            if not is_retryable(response):
+                break
+            await attempt.failed(response)
+        response.raise_for_status()
+        return response
diff --git a/src/shop/retry.py b/src/shop/retry.py
new file mode 100644
index 0000000..51c7e0a
--- /dev/null
+++ b/src/shop/retry.py
@@ -0,0 +1,14 @@
+"""When to try a request again, and how long to wait before."""
+
+from __future__ import annotations
+
+import random
+from dataclasses import dataclass
+
+IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
+
+
+@dataclass(frozen=True)
+class RetryPolicy:
+    tries: int = 4
+    base: float = 0.5
diff --git a/tests/test_retry.py b/tests/test_retry.py
new file mode 100644
index 0000000..8c1f0d2
--- /dev/null
+++ b/tests/test_retry.py
@@ -0,0 +1,5 @@
+from shop.retry import IDEMPOTENT
+
+
+def test_post_is_never_tried_again():
+    assert "POST" not in IDEMPOTENT
`;

export const CHANGED = [
  { path: "src/shop/client.py", change: "modified", additions: 14, deletions: 4 },
  { path: "src/shop/retry.py", change: "added", additions: 14, deletions: 0 },
  { path: "tests/test_retry.py", change: "added", additions: 5, deletions: 0 },
];

function words(text, part, type = "text") {
  return text.match(/\S+\s*|\n+/g).map((data) => [35, { type, data, detail: { part_id: part } }]);
}

function tool(call, name, title, input, output, options = {}) {
  const { ms = 120, ok = true, exit = null, live = false } = options;
  const steps = [
    [250, { type: "tool_call", data: `${name} ${title}`, detail: { call_id: call, tool: name, title, input } }],
  ];
  if (live) {
    for (const line of output.match(/[^\n]*\n/g) ?? [])
      steps.push([ms / 14, { type: "stdout", data: line, detail: { call_id: call } }]);
  }
  const detail = {
    call_id: call,
    tool: name,
    ok,
    title,
    duration_ms: ms,
    ...(exit === null ? {} : { exit_code: exit }),
  };
  steps.push([ms, { type: "tool_result", data: output, detail }]);
  return steps;
}

/** [milliseconds after the one before, chunk without seq and time] */
export function script({ ask = false } = {}) {
  return [
    [0, { type: "status", data: "running", detail: { state: "running", attempt: 1 } }],
    [300, { type: "status", data: "cloned shop at 8f2c1d0", detail: { phase: "workspace" } }],
    [900, { type: "status", data: "the model is working", detail: { phase: "model" } }],
    ...words(
      "**Looking at the client first.** The retries must not repeat a POST, and Retry-After has to win over the backoff.",
      "r1",
      "reasoning",
    ),
    ...words("I'll add a retry policy to the HTTP client. First I look at how requests are sent today.\n\n", "t1"),
    [100, { type: "todo", data: "0 of 5 done", detail: todo(0) }],
    ...tool(
      "c1",
      "read",
      "src/shop/client.py",
      { filePath: "src/shop/client.py" },
      'from __future__ import annotations\n\nimport httpx\n\n\nclass Client:\n    """Talks to the order service."""\n',
    ),
    ...tool(
      "c2",
      "grep",
      "raise_for_status",
      { pattern: "raise_for_status", path: "src" },
      "src/shop/client.py:21:        response.raise_for_status()\nsrc/shop/payments.py:48:    response.raise_for_status()\n",
    ),
    [80, { type: "usage", data: "", detail: usage(1) }],
    [60, { type: "todo", data: "1 of 5 done", detail: todo(1) }],
    ...words(
      "Every request goes through `Client._send`, so that is the one place to change. The policy gets a module of its own:\n\n- only **idempotent** methods are tried again\n- full jitter, doubling from 0.5 s, at most 4 tries\n- `Retry-After` wins over the computed wait\n\n",
      "t2",
    ),
    ...tool(
      "c3",
      "write",
      "src/shop/retry.py",
      {
        filePath: "src/shop/retry.py",
        content:
          '"""When to try a request again, and how long to wait before."""\n\nfrom __future__ import annotations\n\nimport random\nfrom dataclasses import dataclass\n',
      },
      "Wrote file successfully.",
    ),
    [40, { type: "file_change", data: "added src/shop/retry.py", detail: CHANGED[1] }],
    [60, { type: "todo", data: "2 of 5 done", detail: todo(2) }],
    ...tool(
      "c4",
      "edit",
      "src/shop/client.py",
      {
        filePath: "src/shop/client.py",
        oldString: "response = await self._http.send(request)\nresponse.raise_for_status()",
        newString:
          "for attempt in self._retry.attempts(request.method):\n    response = await self._http.send(request)",
      },
      "Edit applied successfully.",
    ),
    [40, { type: "file_change", data: "modified src/shop/client.py", detail: CHANGED[0] }],
    [80, { type: "usage", data: "", detail: usage(2) }],
    [60, { type: "todo", data: "3 of 5 done", detail: todo(3) }],
    ...(ask
      ? [
          [
            500,
            {
              type: "permission",
              data: "bash: pip install respx",
              detail: {
                request_id: "per_1",
                kind: "permission",
                title: "bash: pip install respx",
                options: ["once", "always", "reject"],
              },
            },
          ],
        ]
      : []),
    ...tool(
      "c5",
      "write",
      "tests/test_retry.py",
      { filePath: "tests/test_retry.py", content: "from shop.retry import IDEMPOTENT\n" },
      "Wrote file successfully.",
    ),
    [40, { type: "file_change", data: "added tests/test_retry.py", detail: CHANGED[2] }],
    [60, { type: "todo", data: "4 of 5 done", detail: todo(4) }],
    ...tool(
      "c6",
      "bash",
      "pytest -q --color=yes",
      { command: "pytest -q --color=yes", description: "Run the tests" },
      PYTEST_FAIL,
      { ms: 2_310, ok: false, exit: 1, live: true },
    ),
    ...words(
      "One failure, and a fair one: the wait from `Retry-After` is read after the jitter was applied. I turn the two around.\n\n",
      "t3",
    ),
    ...tool(
      "c7",
      "edit",
      "src/shop/retry.py",
      {
        filePath: "src/shop/retry.py",
        oldString: "wait = random.uniform(0, ceiling)",
        newString: "wait = retry_after(response) or random.uniform(0, ceiling)",
      },
      "Edit applied successfully.",
    ),
    [60, { type: "usage", data: "", detail: usage(3) }],
    ...tool(
      "c8",
      "bash",
      "pytest -q --color=yes",
      { command: "pytest -q --color=yes", description: "Run the tests again" },
      PYTEST_OK,
      { ms: 2_180, exit: 0, live: true },
    ),
    [60, { type: "todo", data: "5 of 5 done", detail: todo(5) }],
    ...words(
      "## Done\n\nThe client now tries idempotent requests again. What changed:\n\n1. `src/shop/retry.py` holds the policy: 4 tries, full jitter, `Retry-After` first.\n2. `Client._send` uses it; `POST` and `PATCH` are sent once, as before.\n3. 6 new tests cover timeouts, 429 and connection resets.\n\n",
      "t4",
    ),
    ...words(
      "```python\nclient = Client(base_url, retry=RetryPolicy(tries=2))  # fewer tries for one caller\n```\n\nAll 41 tests pass.",
      "t4",
    ),
    [90, { type: "usage", data: "", detail: usage(4) }],
    [120, { type: "status", data: "completed", detail: { state: "completed" } }],
  ];
}

/** Ten thousand chunks: how the console bears a long run. */
export function flood(count) {
  const steps = [[0, { type: "status", data: "running", detail: { state: "running" } }]];
  for (let at = 0; steps.length < count - 1; at += 1) {
    const kind = at % 25;
    if (kind === 0)
      steps.push(
        ...tool(
          `f${at}`,
          "bash",
          `make step-${at}`,
          { command: `make step-${at}` },
          `${green("ok")} step ${at}\n`.repeat(6),
        ),
      );
    else if (kind === 12)
      steps.push([
        5,
        { type: "reasoning", data: `Considering step ${at} and what follows from it. `, detail: { part_id: `r${at}` } },
      ]);
    else
      steps.push([
        5,
        {
          type: "text",
          data: kind % 6 === 0 ? `is checked.\n\n` : `Sentence ${at} of the long story `,
          detail: { part_id: `t${Math.floor(at / 25)}` },
        },
      ]);
  }
  steps.length = count - 1;
  steps.push([5, { type: "status", data: "completed", detail: { state: "completed" } }]);
  return steps;
}
