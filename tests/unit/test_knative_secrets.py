"""The Secrets of an installation follow from one folder, and a rotation is kept there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ocf.events.sealing import Keyring
from scripts import knative_secrets

Secrets = dict[str, dict[str, str]]


def secrets(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> Secrets:
    """What the script prints, by the name of the Secret."""
    given = ["knative_secrets.py", "--keys", str(folder), "--s3-access-key", "ID", "--s3-secret-key", "KEY", *more]
    monkeypatch.setattr(sys, "argv", given)
    assert knative_secrets.main() == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line != "---"]
    return {each["metadata"]["name"]: each["stringData"] for each in documents}


def test_a_rotated_key_stays_rotated_and_the_old_one_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the next call, which knows of no rotation; what was sealed before is opened after two of them."""
    first = secrets(tmp_path / "keys", capsys, monkeypatch)
    assert set(first["ocf-encryption"]) == {"ENCRYPTION_KEY"}
    sealed = Keyring(first["ocf-encryption"]["ENCRYPTION_KEY"]).seal("the key of a model", "default")
    for _ in range(2):
        turned = secrets(tmp_path / "keys", capsys, monkeypatch, "--rotate", "ocf-encryption")
    again = secrets(tmp_path / "keys", capsys, monkeypatch)
    assert again["ocf-encryption"] == turned["ocf-encryption"]
    told = again["ocf-encryption"]
    assert told["ENCRYPTION_KEY"] != first["ocf-encryption"]["ENCRYPTION_KEY"]
    retired = told["ENCRYPTION_KEYS_RETIRED"].split(",")
    assert len({told["ENCRYPTION_KEY"], *retired}) == 3
    assert Keyring(told["ENCRYPTION_KEY"], retired).open(sealed, "default") == "the key of a model"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_a_rotation_changes_that_secret_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is logged in to NATS stays so; S3 is who it was."""
    first = secrets(tmp_path / "keys", capsys, monkeypatch)
    turned = secrets(tmp_path / "keys", capsys, monkeypatch, "--rotate", "ocf-dispatch")
    assert turned["ocf-dispatch"] != first["ocf-dispatch"]
    for name in ("ocf-encryption", "ocf-gateway", "ocf-s3"):
        assert turned[name] == first[name]
