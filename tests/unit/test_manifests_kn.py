"""docs/how-to/install-with-kn.md makes a whole system; its commands are checked with the real `kn`, if installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ocf.functions.runtime.serve import FUNCTIONS
from scripts.knative_check import SCHEMAS, mistakes
from scripts.knative_generate import RUN_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/install-with-kn.md"
KN = os.environ.get("KN") or shutil.which("kn")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("kn ")]
NOWHERE = """
apiVersion: v1
kind: Config
current-context: nowhere
contexts: [{name: nowhere, context: {cluster: nowhere}}]
clusters: [{name: nowhere, cluster: {server: "http://127.0.0.1:1"}}]
"""


def test_the_page_has_commands() -> None:
    """Create, look, change, roll out, remove."""
    said = {" ".join(command.split()[1:3]) for command in COMMANDS}
    assert said >= {"service create", "service update", "service list", "revision list"}


def test_the_page_makes_all_of_it() -> None:
    """Every function and the dispatcher; execute with the timeouts that `kn` cannot give it."""
    made = {tuple(command.split()[1:5]) for command in COMMANDS if "create" in command}
    manifests = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    [execute] = manifests
    known = json.loads(SCHEMAS.read_text())
    assert list(mistakes(execute, known)) == []
    assert execute["spec"]["template"]["spec"]["responseStartTimeoutSeconds"] == RUN_SECONDS
    services = {words[2] for words in made if words[0] == "service"} | {execute["metadata"]["name"]}
    assert services == {"gateway", *FUNCTIONS}
    assert "-f knative/base/dispatcher.yaml dispatcher=" in PAGE.read_text()


def test_the_configuration_of_the_page_is_that_of_the_overlay() -> None:
    """Without the base's bounds five runs would take more memory than their pod has."""
    [command] = [line for block in BLOCKS for line in block.splitlines() if line.startswith("cat ")]
    made = subprocess.run(
        ["bash", "-c", command.removesuffix(">ocf-config.env")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = dict(line.split("=", 1) for line in made.stdout.splitlines())
    read = [ROOT / "knative" / name for name in ("base/config.env", "overlays/production/config.env")]
    wanted: dict[str, str] = {}
    for path in read:
        lines = path.read_text().splitlines()
        wanted |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert told == wanted


@pytest.mark.skipif(KN is None, reason="needs kn (KN=PATH)")
@pytest.mark.parametrize("command", COMMANDS)
def test_kn_understands_the_command(command: str, tmp_path: Path) -> None:
    """It gets as far as calling the cluster, which is not there; a wrong flag is refused before that."""
    config = tmp_path / "kubeconfig"
    config.write_text(NOWHERE)
    argv = [str(KN), *shlex.split(command)[1:], "--kubeconfig", str(config)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "connection refused" in ended.stderr + ended.stdout, ended.stderr
