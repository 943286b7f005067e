"""Which addresses a worker may reach.

The worker has no network. Its supervisor asks for each TCP connection; this side decides, connects in
the host's network and hands the connected socket in. The worker is not trusted: everything that counts
is checked here, on the very address that is dialled.
"""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum

from sfp_server.addresses import Address, may_reach, unwrap

DNS_PORT = 53


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
        if await may_reach(address, port, self.allow):
            return Verdict.DIAL, address
        own = address.is_loopback or address.is_unspecified
        return (Verdict.OWN if own else Verdict.REFUSE), address


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
