"""Which hosts an execution may reach: the task's wish below the operator's ceiling, and no inside addresses."""

from __future__ import annotations

import pytest

from ocf.functions.execute.egress_proxy import Refused, rules
from ocf.functions.settings.host_rules import InvalidRule, host_allowed


@pytest.mark.parametrize(
    ("task", "operator", "host", "port", "allowed"),
    [
        (["pypi.org"], ["pypi.org"], "pypi.org", 443, True),
        (["pypi.org"], ["*"], "pypi.org", 80, True),
        (["pypi.org"], ["*"], "pypi.org", 22, False),
        (["pypi.org:22"], ["pypi.org:22"], "pypi.org", 22, True),
        (["pypi.org:22"], ["pypi.org"], "pypi.org", 22, False),
        (["*.pypi.org"], ["*"], "files.pypi.org", 443, True),
        (["*.pypi.org"], ["*"], "pypi.org", 443, False),
        (["*.pypi.org"], ["*"], "evilpypi.org", 443, False),
        (["pypi.org"], ["*"], "pypi.org.evil.example", 443, False),
        (["*.example.com"], ["a.example.com"], "a.example.com", 443, True),
        (["*.example.com"], ["a.example.com"], "b.example.com", 443, False),
        (["pypi.org"], [], "pypi.org", 443, False),
        ([], ["*"], "pypi.org", 443, False),
    ],
)
def test_both_sides_must_allow(task: list[str], operator: list[str], host: str, port: int, allowed: bool) -> None:
    """A host and port passes only when a rule of the task and a rule of the operator match."""
    made = rules(task, operator)
    if allowed:
        made.check(host, port)
    else:
        with pytest.raises(Refused):
            made.check(host, port)


@pytest.mark.parametrize(
    ("operator", "host", "address", "allowed"),
    [
        ("*", "a.example", "93.184.216.34", True),
        ("*", "a.example", "2606:2800:220:1::1", True),
        ("*", "a.example", "10.0.0.1", False),
        ("*", "a.example", "127.0.0.1", False),
        ("*", "a.example", "169.254.169.254", False),
        ("*", "a.example", "0.0.0.0", False),
        ("*", "a.example", "100.64.0.1", False),
        ("*", "a.example", "224.0.0.1", False),
        ("*", "a.example", "::1", False),
        ("*", "a.example", "fd00:ec2::254", False),
        ("*", "a.example", "fe80::1", False),
        ("*", "a.example", "::ffff:10.0.0.1", False),
        ("*", "a.example", "64:ff9b::a9fe:a9fe", False),
        ("*", "a.example", "2002:7f00:1::", False),
        ("a.example", "a.example", "10.0.0.1", True),
        ("a.example", "a.example", "127.0.0.1", True),
        ("*.example", "a.example", "10.0.0.1", False),
        ("a.example", "a.example", "169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", "169.254.169.254", True),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1", True),
        ("*", "169.254.169.254", "169.254.169.254", False),
        ("*", "10.0.0.1", "10.0.0.1", False),
        ("*", "127.0.0.1", "127.0.0.1", False),
        ("*.254", "169.254.169.254", "169.254.169.254", False),
        ("*", "93.184.216.34", "93.184.216.34", True),
    ],
)
def test_inside_addresses_need_the_operators_word(operator: str, host: str, address: str, allowed: bool) -> None:
    """A name that leads inside is refused, unless the operator lists that very host; metadata only by its address."""
    made = rules([host], [operator])
    if allowed:
        made.check_address(host, 443, address)
    else:
        with pytest.raises(Refused, match="inside"):
            made.check_address(host, 443, address)


def test_a_tasks_wildcard_names_no_inside_address() -> None:
    """`*.254` is not the address of a metadata service, whatever the operator lists."""
    made = rules(["*.254"], ["169.254.169.254"])
    made.check("169.254.169.254", 80)
    with pytest.raises(Refused, match="inside"):
        made.check_address("169.254.169.254", 80, "169.254.169.254")


@pytest.mark.parametrize(
    ("asked", "operator", "within"),
    [
        ("pypi.org", ["*"], True),
        ("pypi.org:22", ["*"], False),
        ("pypi.org:443", ["pypi.org"], True),
        ("pypi.org", ["pypi.org:443"], False),
        ("pypi.org:22", ["pypi.org", "pypi.org:22"], True),
        ("*.pypi.org", ["pypi.org"], False),
        ("*.pypi.org", ["*.pypi.org"], True),
        ("*.files.pypi.org", ["*.pypi.org"], True),
        ("*.evilpypi.org", ["*.pypi.org"], False),
        ("files.pypi.org", ["*.pypi.org"], True),
        ("pypi.org", ["*.pypi.org"], False),
        ("PyPI.org", ["pypi.ORG"], True),
    ],
)
def test_submit_and_proxy_accept_the_same_hosts(asked: str, operator: list[str], within: bool) -> None:
    """A wish is within the ceiling when all that it means is: hosts and ports, by the rules of the proxy itself."""
    assert host_allowed(asked, operator) is within


@pytest.mark.parametrize("text", ["", "http://a", "a b", "*.", "a:0", "a:70000", "-a", "*a", "[::1]", "a/b"])
def test_invalid_rules_are_named(text: str) -> None:
    """What is no rule is refused with its text, not ignored."""
    with pytest.raises(InvalidRule):
        rules([], [text])


def test_a_task_cannot_ask_for_everything() -> None:
    """`*` is the operator's to give."""
    with pytest.raises(InvalidRule, match="every host"):
        rules(["*"], ["*"])


def test_nothing_allowed_needs_no_proxy() -> None:
    """Rules are false when nothing could pass."""
    assert not rules([], ["*"])
    assert not rules(["a.example"], [])
    assert rules(["a.example"], ["*"])
