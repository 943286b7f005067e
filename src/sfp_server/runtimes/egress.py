"""Which addresses a worker may reach, and the dialling on its behalf.

The worker has no network. Its supervisor asks for each TCP connection; this side decides, connects in
the host's network and hands the connected socket in. The worker is not trusted: everything that counts
is checked here, on the very address that is dialled.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import psutil

Address = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network

#: seconds for one connection, and for one look-up
DIAL_SECONDS = 10.0
LOOKUP_SECONDS = 10.0
DNS_PORT = 53

#: never reachable unless allowed by name: what `is_global` of this Python may not know
_REFUSED: tuple[Net, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "168.63.129.16/32",  # Azure's platform address
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "3fff::/20",
    )
)
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.ip_network("::/96")


class Verdict(StrEnum):
    DIAL = "dial"
    #: the worker's own loopback, inside its own network namespace
    OWN = "own"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """`allow` opens what is refused otherwise: `host`, `host:port`, `[v6]:port` or a CIDR."""

    allow: frozenset[str] = frozenset()
    #: the host's nameservers, reachable on port 53 (TCP)
    nameservers: frozenset[str] = frozenset()

    async def verdict(self, host: str, port: int) -> tuple[Verdict, Address]:
        """What is to happen with a connect to `host` (an address), and the address to dial.

        Raises:
            ValueError: `host` is not an address.
        """
        address = unwrap(ipaddress.ip_address(host))
        if port == DNS_PORT and str(address) in self.nameservers:
            return Verdict.DIAL, address
        if is_public(address) and address not in host_addresses():
            return Verdict.DIAL, address
        if await self._is_allowed(address, port):
            return Verdict.DIAL, address
        own = address.is_loopback or address.is_unspecified
        return (Verdict.OWN if own else Verdict.REFUSE), address

    async def _is_allowed(self, address: Address, port: int) -> bool:
        for entry in self.allow:
            host, entry_port = split_entry(entry)
            if entry_port in {None, port} and await _names(host, address):
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyTo:
    """The policy of a clone step: these addresses at this port, as far as `base` lets them through."""

    base: EgressPolicy
    addresses: frozenset[str]
    port: int
    #: whether names must be looked up inside (git:// cannot be told addresses)
    names: bool = False

    async def verdict(self, host: str, port: int) -> tuple[Verdict, Address]:
        address = unwrap(ipaddress.ip_address(host))
        if self.names and port == DNS_PORT and str(address) in self.base.nameservers:
            return Verdict.DIAL, address
        if port != self.port or str(address) not in self.addresses:
            return Verdict.REFUSE, address
        verdict, address = await self.base.verdict(host, port)
        return (verdict if verdict is Verdict.DIAL else Verdict.REFUSE), address


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The policy of a worker without network."""

    async def verdict(self, host: str, port: int) -> tuple[Verdict, Address]:  # noqa: ARG002 (never, whatever the port)
        return Verdict.REFUSE, ipaddress.ip_address(host)


Policy = EgressPolicy | OnlyTo | Closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """What applies to the clone step, and what to the program."""

    program: Policy = field(default_factory=Closed)
    clone: Policy = field(default_factory=Closed)


def unwrap(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that is only its wrapping (mapped, NAT64, 6to4, compatible)."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:
        return inner
    if address in _V4_COMPATIBLE and int(address) > 1:
        return inner
    return address


def is_public(address: Address) -> bool:
    """Whether the address is one of the open internet, and no piece of infrastructure close to us."""
    if any(address in network for network in _REFUSED if network.version == address.version):
        return False
    return address.is_global if address.version == 4 else address in _GLOBAL_V6 and address.is_global


def host_addresses() -> frozenset[Address]:
    """Every address of the host's own interfaces, read anew: they come and go."""
    found: set[Address] = set()
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            with contextlib.suppress(ValueError):
                found.add(ipaddress.ip_address(address.address.partition("%")[0]))
    return frozenset(found)


def split_entry(entry: str) -> tuple[str, int | None]:
    """`host:port` → (host, port); without a port, None."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, int(port[1:]) if port.startswith(":") else None
    host, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and ":" not in host:
        return host, int(port)
    return entry, None


async def _names(host: str, address: Address) -> bool:
    """Whether an entry's host part (a CIDR, an address, a name) means `address`."""
    with contextlib.suppress(ValueError):
        return address in ipaddress.ip_network(host, strict=False)
    return str(address) in await resolve(host)


async def resolve(host: str, port: int = 0) -> frozenset[str]:
    """The addresses of a name, unwrapped; none when it cannot be resolved in time."""
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), LOOKUP_SECONDS)
    except (OSError, UnicodeError, TimeoutError):
        return frozenset()
    return frozenset(str(unwrap(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]))) for entry in found)


async def dial(address: Address, port: int) -> socket.socket:
    """A connected TCP socket of the host.

    Raises:
        OSError: as connect(2); TimeoutError after `DIAL_SECONDS`.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.sock_connect(connection, (str(address), port)), DIAL_SECONDS)
    except BaseException:
        connection.close()
        raise
    return connection


def parse_allow(entries: Iterable[str]) -> frozenset[str]:
    """Entries as an operator writes them, checked.

    Raises:
        ValueError: an entry is empty or its port is none.
    """
    cleaned = frozenset(entry.strip() for entry in entries if entry.strip())
    for entry in cleaned:
        host, port = split_entry(entry)
        if not host or (port is not None and not 0 < port < 65536):
            raise ValueError(f"not a host, host:port or network: {entry!r}")
    return cleaned
