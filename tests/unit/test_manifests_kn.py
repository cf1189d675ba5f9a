"""The commands of docs/deploy-kn.md, held against the real `kn`: flags that do not exist would be found here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/deploy-kn.md"
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
    assert said >= {"service create", "service update", "service list", "source container", "revision list"}


@pytest.mark.skipif(KN is None, reason="needs kn (KN=PATH)")
@pytest.mark.parametrize("command", COMMANDS)
def test_kn_understands_the_command(command: str, tmp_path: Path) -> None:
    """It gets as far as calling the cluster, which is not there; a wrong flag is refused before that."""
    config = tmp_path / "kubeconfig"
    config.write_text(NOWHERE)
    argv = [str(KN), *shlex.split(command)[1:], "--kubeconfig", str(config)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "connection refused" in ended.stderr + ended.stdout, ended.stderr
