"""Helm, as `scripts/kube_tools.sh` fetches it or as it is on PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

_OURS = Path(__file__).parents[2] / ".tools/kube/helm"
#: Path of the program; None where Helm is not installed.
HELM = str(_OURS) if _OURS.is_file() else shutil.which("helm")
