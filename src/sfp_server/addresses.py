"""Which network addresses are public, and which of the others an operator has opened (`egress.allow`).

For everything that connects to the outside on somebody's word: workers (`runtimes/egress.py`) and the server's own
calls (`outgoing.py`). The check is made on the very address that is dialled, never on a name.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import psutil

Address = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network

#: seconds for one connection, and for one look-up
DIAL_SECONDS = 10.0
LOOKUP_SECONDS = 10.0

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


async def may_reach(address: Address, port: int, allow: Iterable[str]) -> bool:
    """Whether to connect to `address`: it is public and not this host's own, or an entry of `allow` names it."""
    if is_public(address) and address not in host_addresses():
        return True
    for entry in allow:
        host, entry_port = split_entry(entry)
        if entry_port in {None, port} and await names(host, address):
            return True
    return False


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


async def names(host: str, address: Address) -> bool:
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
