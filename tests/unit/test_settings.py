"""The environment: what is malformed stops the start, with one line that names the variable and not its value."""

from __future__ import annotations

import pytest

from ocf.functions.settings.settings import Settings, load_or_exit

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ENCRYPTION_KEY", "abc", "32 bytes in base64"),
        ("ENCRYPTION_KEYS_RETIRED", f"{KEY}, abc", "32 bytes in base64"),
        ("NETWORK_ALLOW", "pypi.org, http://x", "not a host rule: 'http://x'"),
        ("NETWORK_ALLOW", "pypi.org:99999", "not a host rule"),
        ("MAX_MEMORY_BYTES", "much", "MAX_MEMORY_BYTES"),
    ],
)
def test_malformed_setting_stops_the_start(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line, the variable's name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load_or_exit()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ocf: bad environment: {name}: ")
    assert said in line
    if name.startswith("ENCRYPTION"):
        assert "abc" not in line


def test_valid_settings_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in either alphabet, every form of host rule."""
    monkeypatch.setenv("ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("ENCRYPTION_KEYS_RETIRED", f"{KEY},{KEY.rstrip('=')}")
    monkeypatch.setenv("NETWORK_ALLOW", "*, pypi.org, *.example.com:8443")
    assert load_or_exit().network_allow == ("*", "pypi.org", "*.example.com:8443")


def test_a_silent_model_is_cut_before_its_run_counts_as_stalled() -> None:
    """With the defaults: each try of a call is a sign of life, and is over before the watchdog looks for one."""
    fields = Settings.model_fields
    assert fields["model_silence_seconds"].default == 300
    assert fields["model_silence_seconds"].default < fields["silence_timeout"].default
