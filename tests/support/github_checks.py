"""GitHub's check runs, held to its published OpenAPI description (github-checks.json): requests and answers fit it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_DESCRIPTION: dict[str, Any] = json.loads((Path(__file__).parent / "github-checks.json").read_text())
_PATHS = _DESCRIPTION["paths"]
_CREATE, _UPDATE = "/repos/{owner}/{repo}/check-runs", "/repos/{owner}/{repo}/check-runs/{check_run_id}"
_LIST = "/repos/{owner}/{repo}/commits/{ref}/check-runs"


def _valid(value: object, schema: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": _DESCRIPTION["components"]}).validate(value)


def _body(content: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = content["content"]["application/json"]["schema"]
    return schema


@dataclass
class Checks:
    """The check runs of one repository. Without `allowed` the App has no permission for them."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    allowed: bool = True

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any] | None:
        """One call below `/repos/OWNER/REPO/`, or None for a path of another kind. Invalid ones raise."""
        parts = path.strip("/").split("/")
        if "check-runs" not in parts:
            return None
        if not self.allowed:
            return 403, {"message": "Resource not accessible by integration"}
        match [method, *parts]:
            case ["GET", "commits", commit, "check-runs"]:
                known = {one["name"]: one["schema"] for one in _parameters(_PATHS[_LIST]["get"])}
                for name, value in query.items():
                    _valid(int(value) if known[name].get("type") == "integer" else value, known[name])
                of = [one for one in self.runs if one["head_sha"] == commit and one["name"] == query["check_name"]]
                return self._answer(_PATHS[_LIST]["get"], 200, {"total_count": len(of), "check_runs": of})
            case ["POST", "check-runs"]:
                _valid(body, _body(_PATHS[_CREATE]["post"]["requestBody"]))
                assert re.fullmatch("[0-9a-f]{40}", body["head_sha"])
                self.runs.append(_made(len(self.runs) + 1, body))
                return self._answer(_PATHS[_CREATE]["post"], 201, self.runs[-1])
            case ["PATCH", "check-runs", number]:
                _valid(body, _body(_PATHS[_UPDATE]["patch"]["requestBody"]))
                found = self.runs[int(number) - 1]
                found.update(_made(int(number), {**found, "conclusion": None, **body}))
                return self._answer(_PATHS[_UPDATE]["patch"], 200, found)
        return 404, {"message": f"no {method} {path}"}

    def _answer(self, operation: dict[str, Any], status: int, value: Any) -> tuple[int, Any]:
        _valid(value, _body(operation["responses"][str(status)]))
        return status, value


def _parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    known = _DESCRIPTION["components"]["parameters"]
    return [known[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in operation["parameters"]]


def _made(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """A check run as GitHub answers it."""
    url = f"https://github.example/check-runs/{number}"
    ended = body.get("status") == "completed" or body.get("conclusion")
    return {
        **{"id": number, "node_id": f"n{number}", "url": url, "html_url": url, "details_url": None},
        **{"external_id": None, "started_at": "2026-01-02T03:04:05Z", "check_suite": {"id": 1}, "app": None},
        **{"status": "queued", "conclusion": None, "pull_requests": [], **body},
        "completed_at": "2026-01-02T03:05:05Z" if ended else None,
        "output": {"text": None, "annotations_count": 0, "annotations_url": url, **body["output"]},
    }
