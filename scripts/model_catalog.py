"""Write functions/models/catalog.ndjson, the model catalog, from the pinned OpenCode.

    model_catalog.py [--check]

OpenCode has a snapshot of models.dev in its program. This script takes the snapshot of `PROVIDERS` out of it, keeps
what OpenCode reads of each model, and asks `opencode models --verbose` for the names of the variants. `make lock` runs
it; `tests/integration/test_catalog_opencode.py` compares the result with what OpenCode lists. Needs node.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CATALOG = ROOT / "functions/models/catalog.ndjson"
BINARY = ROOT / ".tools/node_modules/opencode-linux-x64/bin/opencode"
NPM_LOCK = ROOT / "functions/execute/npm/package-lock.json"

#: Makers of models and well-known hosts; the base URL where only the SDK of the provider knows it.
PROVIDERS: dict[str, str | None] = {
    "alibaba": None,
    "anthropic": "https://api.anthropic.com/v1",
    "baseten": None,
    "cerebras": "https://api.cerebras.ai/v1",
    "deepinfra": "https://api.deepinfra.com/v1/openai",
    "deepseek": None,
    "fireworks-ai": None,
    "google": "https://generativelanguage.googleapis.com/v1beta",
    "groq": "https://api.groq.com/openai/v1",
    "huggingface": None,
    "meta": None,
    "minimax": None,
    "mistral": "https://api.mistral.ai/v1",
    "moonshotai": None,
    "nebius": None,
    "nvidia": None,
    "ollama-cloud": None,
    "openai": "https://api.openai.com/v1",
    "opencode": None,
    "openrouter": None,
    "ovhcloud": None,
    "scaleway": None,
    "siliconflow": None,
    "togetherai": "https://api.together.xyz/v1",
    "upstage": None,
    "xai": "https://api.x.ai/v1",
    "zai": None,
    "zhipuai": None,
}
#: Providers that OpenCode knows and the model proxy cannot serve: their API format is their own. They are refused by
#: name.
REFUSED = (
    "amazon-bedrock", "azure", "azure-cognitive-services", "cloudflare-ai-gateway", "cohere", "gitlab", "google-vertex",
    "google-vertex-anthropic", "sap-ai-core", "vercel", "watsonx",
)  # fmt: skip
#: Fields of models.dev that OpenCode reads. Not `experimental`: its modes are the same models under request fields that
#: the model proxy does not forward (`service_tier`, `speed`).
FIELDS = (
    "id", "name", "family", "attachment", "reasoning", "reasoning_options", "tool_call", "temperature", "interleaved",
    "modalities", "limit", "cost", "status", "provider", "release_date",
)  # fmt: skip
#: OpenCode does not list them.
_UNLISTED = ("deprecated", "alpha")
#: Values that a missing field has; `temperature` and the others are false.
_DEFAULTS = {"attachment": False, "reasoning": False, "tool_call": True, "temperature": False, "interleaved": False}
_START = b"n.sync(()=>({"


def version() -> str:
    """Return the pinned version of OpenCode."""
    return str(json.loads(NPM_LOCK.read_text())["packages"]["node_modules/opencode-linux-x64"]["version"])


def snapshot(binary: Path) -> dict[str, Any]:
    """Return OpenCode's snapshot of models.dev.

    Raises:
        SystemExit: it is not where this version of the script looks for it.
    """
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as program:
        start = program.find(b"ModelsDev.fetchApi")
        start = program.find(_START, start) if start >= 0 else -1
        if start < 0:
            raise SystemExit(f"catalog: {binary} has no snapshot of models.dev where 1.18 has it")
        begin = start + len(_START) - 1
        module = program[begin : program.find(b"\0", begin)].decode("utf-8", "replace")
    literal = module[: _end_of(module)]
    done = subprocess.run(
        ["node", "-e", "process.stdout.write(JSON.stringify(eval('('+require('fs').readFileSync(0,'utf8')+')')))"],
        input=literal.encode(), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def _end_of(text: str) -> int:
    """Return the end of the JavaScript object literal at the start of `text`."""
    depth, quote, at = 0, "", 0
    while True:
        letter = text[at]
        if quote:
            if letter == "\\":
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"'`":
            quote = letter
        elif letter in "{[(":
            depth += 1
        elif letter in "}])":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1


def entries(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return models.dev's providers of `PROVIDERS`: their models that write text and call tools."""
    kept: dict[str, dict[str, Any]] = {}
    for name in PROVIDERS:
        provider = found[name]
        models = {
            model_id: _entry(model)
            for model_id, model in sorted(provider["models"].items())
            if model.get("status") not in _UNLISTED and _serves_agents(model)
        }
        kept[name] = {"id": name, "name": provider["name"], "env": [], "npm": provider["npm"], "models": models}
        if "api" in provider:
            kept[name]["api"] = provider["api"]
    return kept


def _serves_agents(model: dict[str, Any]) -> bool:
    return "text" in model.get("modalities", {}).get("output", []) and bool(model.get("tool_call", True))


def _entry(model: dict[str, Any]) -> dict[str, Any]:
    return {
        name: model[name]
        for name in FIELDS
        if name in model and (name not in _DEFAULTS or model[name] != _DEFAULTS[name])
    }


def listed(
    binary: Path, config: list[str] | dict[str, Any], catalog: Path | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what `opencode models --verbose` prints, by provider and model.

    Args:
        binary: OpenCode.
        config: OpenCode's configuration, or the providers to list.
        catalog: models.dev's format; None: OpenCode's own.
    """
    if isinstance(config, list):
        options = {"options": {"apiKey": "x"}}
        config = {"enabled_providers": config, "provider": {name: options for name in config}}  # noqa: C420
    with tempfile.TemporaryDirectory() as home:
        env = {
            "PATH": os.environ["PATH"], "HOME": home, "OPENCODE_CONFIG_CONTENT": json.dumps(config),
            "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_PURE": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1", **({"OPENCODE_MODELS_PATH": str(catalog)} if catalog else {}),
        }  # fmt: skip
        # Into a file: at its end OpenCode drops what a pipe has not taken yet.
        output = Path(home, "models.txt")
        with output.open("wb") as file:
            done = subprocess.run(
                [binary, "models", "--verbose"], env=env, cwd=home, stdout=file, stderr=subprocess.PIPE, timeout=300
            )
        if done.returncode:
            raise SystemExit(f"catalog: opencode models failed: {done.stderr.decode(errors='replace')[-500:]}")
        return parsed(output.read_text())


def parsed(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the models in the output of `opencode models --verbose`: each is a line with its name, then its JSON."""
    decoder, at = json.JSONDecoder(), 0
    models: dict[tuple[str, str], dict[str, Any]] = {}
    while (at := text.find("\n{", at)) >= 0:
        model, at = decoder.raw_decode(text, at + 1)
        models[model["providerID"], model["id"]] = model
    return models


def lines(binary: Path) -> list[str]:
    """Return the catalog's lines."""
    found = snapshot(binary)
    kept = entries(found)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(kept, file)
        file.flush()
        known = listed(binary, list(PROVIDERS), Path(file.name))
    rows: list[dict[str, Any]] = [{"opencode": version()}]
    for name, provider in kept.items():
        url = PROVIDERS[name] or provider["api"].rstrip("/")
        rows.append({"provider": name, "name": provider["name"], "npm": provider["npm"], "base_url": url})
    rows += [{"provider": name, "name": found[name]["name"], "npm": found[name]["npm"]} for name in REFUSED]
    for name, provider in kept.items():
        for model, entry in provider["models"].items():
            if (agents := known.get((name, model))) is not None:  # a few models OpenCode leaves out by name
                rows.append({"provider": name, "model": model, "variants": list(agents["variants"]), "entry": entry})
    return [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]


def main() -> int:
    """Write the catalog, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when it differs")
    parser.add_argument("--binary", type=Path, default=BINARY)
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        raise SystemExit(f"catalog: {arguments.binary} is missing; run: make install")
    text = "\n".join(lines(arguments.binary)) + "\n"
    if not arguments.check:
        CATALOG.write_text(text)
    elif text != CATALOG.read_text():
        print(
            f"catalog: {CATALOG.relative_to(ROOT)} is not what OpenCode has; run scripts/model_catalog.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
