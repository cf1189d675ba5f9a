"""An SDK that somebody else's generator makes from the OpenAPI document."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.npm import modules
from tests.support.offline import ROOT, node
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });
const { data, error } = await client.POST("/tasks/execute", { body: { prompt: "Write hello.txt", project_id: "sdk" } });
if (!data) throw new Error(JSON.stringify(error));
const params = { path: { execution_id: data.execution_id }, query: { project_id: "sdk" } };
for (;;) {
  const { data: task } = await client.GET("/tasks/{execution_id}/status", { params });
  if (task?.ended_at) {
    console.log(task.status);
    break;
  }
  await new Promise((resolve) => setTimeout(resolve, 200));
}
// @ts-expect-error no such field
await client.POST("/tasks/execute", { body: { promt: "" } });
// @ts-expect-error no such path
await client.GET("/task", {});
"""


def test_it_compiles_and_runs_a_task(stack: Stack, tmp_path: Path) -> None:
    """openapi-typescript with openapi-fetch: typed bodies, parameters and answers; the task completes."""
    (tmp_path / "node_modules").symlink_to(modules("openapi"))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.ts").write_text(PROGRAM)
    for argv in (
        ["openapi-typescript/bin/cli.js", ROOT / "schemas/openapi.json", "-o", "api.ts"],
        ["typescript/bin/tsc", "run.ts", "--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck",
         "--lib", "es2023,dom", "--types", "node", "--typeRoots", ROOT / "console/node_modules/@types"],
    ):  # fmt: skip
        argv[0] = f"node_modules/{argv[0]}"
        done = subprocess.run([node(), *argv], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    argv = [node(), "run.js", stack.answer["gateway"]]
    said = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True).stdout
    assert said == "completed\n"
