"""The one rule on addresses, in the three places where a tenant names a host: model endpoint, git, egress proxy."""

from __future__ import annotations

import pytest

from ocf.functions.core.address_rules import Reach, is_forbidden, literal, reach, worst_reach
from ocf.functions.execute.egress_proxy import Refused, rules
from ocf.functions.models.endpoint_check import BadEndpoint, check_endpoint
from ocf.functions.workspace import InvalidWorkspace, clone
from ocf.functions.workspace.allowed_roots import Roots
from ocf.functions.workspace.clone import check_url, pinned

PUBLIC, INSIDE, NEVER = Reach.PUBLIC, Reach.INSIDE, Reach.NEVER
ADDRESSES = {
    "93.184.216.34": PUBLIC,
    "2606:2800:220:1::1": PUBLIC,
    "10.0.0.1": INSIDE,
    "172.16.0.1": INSIDE,
    "192.168.1.1": INSIDE,
    "127.0.0.1": INSIDE,
    "127.9.9.9": INSIDE,
    "100.64.0.1": INSIDE,
    "::1": INSIDE,
    "fd12:3456::1": INSIDE,
    "0.0.0.0": NEVER,
    "::": NEVER,
    "169.254.169.254": NEVER,
    "169.254.0.23": NEVER,
    "168.63.129.16": NEVER,
    "100.100.100.200": NEVER,
    "192.0.0.192": NEVER,
    "224.0.0.1": NEVER,
    "240.0.0.1": NEVER,
    "255.255.255.255": NEVER,
    "fd00:ec2::254": NEVER,
    "fd00:ec2::23": NEVER,
    "fd20:ce::254": NEVER,
    "fe80::1": NEVER,
    "fe80::1%eth0": NEVER,
    "fec0::1": NEVER,
    "feff::1": NEVER,
    "ff02::1": NEVER,
    # IPv4 within IPv6: mapped, compatible, translated, NAT64, NAT64 of a network's own, 6to4, Teredo.
    "::ffff:169.254.169.254": NEVER,
    "::ffff:10.0.0.1": INSIDE,
    "::ffff:93.184.216.34": PUBLIC,
    "::169.254.169.254": NEVER,
    "::10.0.0.1": INSIDE,
    "::ffff:0:169.254.169.254": NEVER,
    "::ffff:0:127.0.0.1": INSIDE,
    "64:ff9b::169.254.169.254": NEVER,
    "64:ff9b::a83f:8110": NEVER,
    "64:ff9b::10.0.0.1": INSIDE,
    "64:ff9b::93.184.216.34": PUBLIC,
    "64:ff9b:1::169.254.169.254": NEVER,
    "64:ff9b:1:a9fe:a9:fe00::": NEVER,
    "64:ff9b:1:fea9:fe:a9fe::": NEVER,
    "2002:a9fe:a9fe::": NEVER,
    "2002:7f00:1::": INSIDE,
    "2002:5db8:d822::1": PUBLIC,
    "2001:0:5db8:d822:0:0:5601:5601": NEVER,
    "2001:0:5db8:d822:0:0:f5ff:fffe": INSIDE,
}
REFUSED = [address for address, where in ADDRESSES.items() if where is NEVER]


@pytest.mark.parametrize(("address", "where"), ADDRESSES.items())
def test_where_an_address_leads(address: str, where: Reach) -> None:
    """Each address has one reach, whatever wraps it."""
    assert reach(address) is where


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("2852039166", "169.254.169.254"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("127.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("169.254.169.254.", "169.254.169.254"),
        ("example.com", None),
        ("1.2.3.4.5", None),
        ("256.1.1.1", None),
        ("-1", None),
        ("", None),
    ],
)
def test_an_address_in_another_spelling_is_that_address(host: str, address: str | None) -> None:
    """What a resolver reads as an address is judged as one; everything else is a name."""
    assert literal(host) == address


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "instance-data"])
def test_a_metadata_service_by_name(host: str) -> None:
    """Its names are refused before anything is resolved."""
    assert is_forbidden(host)
    assert not is_forbidden("metadata.example.com")


def test_one_wrong_address_spoils_a_name() -> None:
    """The worst address decides."""
    assert worst_reach(["93.184.216.34", "169.254.169.254", "10.0.0.1"]) is NEVER
    assert worst_reach(["93.184.216.34", "10.0.0.1"]) is INSIDE
    assert worst_reach(["93.184.216.34"]) is PUBLIC


@pytest.mark.parametrize("address", REFUSED)
def test_no_model_endpoint_is_there(address: str) -> None:
    """A model endpoint whose URL has the address is refused."""
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(BadEndpoint, match="not allowed"):
        check_endpoint(f"http://{host}/v1")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every name resolves to."""
    found: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        return found

    monkeypatch.setattr(clone, "resolve", resolve)
    return found


@pytest.mark.parametrize("address", REFUSED)
async def test_no_git_host_is_there(resolver: list[str], address: str) -> None:
    """A git host is refused whose name leads to the address, also beside a good one."""
    resolver[:] = ["93.184.216.34", address]
    remote = check_url("https://git.example/team/app.git", frozenset({"https"}), Roots())
    with pytest.raises(InvalidWorkspace, match=r"git\.example.*not allowed"):
        await pinned(remote)


async def test_git_connects_to_what_was_checked(resolver: list[str]) -> None:
    """The addresses that were checked are the ones that git is told to use."""
    resolver[:] = ["93.184.216.34", "2606:2800:220:1::1"]
    remote = check_url("https://git.example:8443/team/app.git", frozenset({"https"}), Roots())
    assert await pinned(remote) == "git.example:8443:93.184.216.34,[2606:2800:220:1::1]"


@pytest.mark.parametrize("address", [one for one, where in ADDRESSES.items() if where is not PUBLIC])
@pytest.mark.parametrize("operator", ["*", "a.example", "*.example"])
def test_no_tool_gets_there(operator: str, address: str) -> None:
    """A name of `network.allow` leads nowhere inside; what is only private is reached if the operator lists it."""
    made = rules(["a.example"], [operator])
    if operator == "a.example" and reach(address) is INSIDE:
        made.check_address("a.example", 443, address)
    else:
        with pytest.raises(Refused, match="inside"):
            made.check_address("a.example", 443, address)


@pytest.mark.parametrize("address", [one for one, where in ADDRESSES.items() if where is PUBLIC])
def test_a_tool_gets_outside(address: str) -> None:
    """Public addresses need no further word of the operator."""
    rules(["a.example"], ["*"]).check_address("a.example", 443, address)
