"""The Secrets of an installation follow from one folder, and a rotation is kept there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ocf.events.sealing import Keyring
from ocf.stack.keys import load_or_generate
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
        secrets(tmp_path / "keys", capsys, monkeypatch, "--rotate", "ocf-encryption")
        turned = secrets(tmp_path / "keys", capsys, monkeypatch, "--finish", "ocf-encryption")
    again = secrets(tmp_path / "keys", capsys, monkeypatch)
    assert again["ocf-encryption"] == turned["ocf-encryption"]
    told = again["ocf-encryption"]
    assert told["ENCRYPTION_KEY"] != first["ocf-encryption"]["ENCRYPTION_KEY"]
    retired = told["ENCRYPTION_KEYS_RETIRED"].split(",")
    assert len({told["ENCRYPTION_KEY"], *retired}) == 3
    assert Keyring(told["ENCRYPTION_KEY"], retired).open(sealed, "default") == "the key of a model"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}


def test_at_every_step_of_a_rotation_readers_know_what_the_gateway_seals_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway and a worker that started at any two steps next to each other understand each other; repeating a step
    changes nothing."""
    steps = [()] + 2 * [("--rotate", "ocf-encryption")] + 2 * [("--finish", "ocf-encryption")]
    told = [secrets(tmp_path / "keys", capsys, monkeypatch, *step)["ocf-encryption"] for step in steps]
    assert told[1] == told[2]
    assert told[3] == told[4]
    assert told[0]["ENCRYPTION_KEY"] == told[1]["ENCRYPTION_KEY"] != told[3]["ENCRYPTION_KEY"]
    rings = [
        Keyring(each["ENCRYPTION_KEY"], each.get("ENCRYPTION_KEYS_RETIRED", "").split(",") if len(each) > 1 else ())
        for each in (told[0], told[1], told[3])
    ]
    for one, other in ((0, 1), (1, 0), (1, 2), (2, 1)):
        assert rings[one].open(rings[other].seal("x", "default"), "default") == "x"


def test_nats_is_rotated_in_its_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operator and account stay, so the server finds its streams; only the asked Secrets are printed; a user is revoked
    by its file."""
    keys = tmp_path / "keys"
    first = secrets(keys, capsys, monkeypatch)
    trust = load_or_generate(keys).trust
    turned = secrets(keys, capsys, monkeypatch, "--rotate", "ocf-nats", "--secret", "ocf-gateway")
    assert set(turned) == {"ocf-gateway"}
    assert turned["ocf-gateway"]["NATS_ACCOUNT"] == first["ocf-gateway"]["NATS_ACCOUNT"]
    assert turned["ocf-gateway"]["NATS_SIGNING_SEED"] != first["ocf-gateway"]["NATS_SIGNING_SEED"]
    during = load_or_generate(keys).trust
    assert (during.operator, during.account, len(during.earlier)) == (trust.operator, trust.account, 2)
    leaked = tmp_path / "leaked.creds"
    leaked.write_text(first["ocf-backend"]["backend.creds"])
    secrets(keys, capsys, monkeypatch, "--finish", "ocf-nats", "--revoke", str(leaked))
    after = load_or_generate(keys).trust
    assert after.earlier == ()
    assert [user[0] for user in after.revoked] == ["U"]


def test_a_rotation_changes_that_secret_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is logged in to NATS stays so; S3 is who it was."""
    first = secrets(tmp_path / "keys", capsys, monkeypatch)
    turned = secrets(tmp_path / "keys", capsys, monkeypatch, "--rotate", "ocf-dispatch")
    assert turned["ocf-dispatch"] != first["ocf-dispatch"]
    for name in ("ocf-encryption", "ocf-gateway", "ocf-s3"):
        assert turned[name] == first[name]
