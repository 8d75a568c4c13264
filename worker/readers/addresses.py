"""Which addresses a source may come from. A name is resolved once; what is judged here is what is connected to.

Without this, whoever may submit a job could read what only the worker's network can: services on its loopback, the
intranet, and the metadata service of a cloud, which hands out credentials.
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

from domain.errors import Code, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.readers.patience import Patience

Address: TypeAlias = IPv4Address | IPv6Address

# The IANA IPv4 and IPv6 Special-Purpose Address Registries, which `is_global` of older Pythons knows in part; the
# multicast and reserved blocks; and 168.63.129.16, a public address under which Azure serves a machine its secrets.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
)
# Of IPv6 only 2000::/3 is given out for use in public (RFC 4291). Taken from it: protocol assignments with Teredo,
# documentation, and 6to4; the tunnels would reach the IPv4 address inside.
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: networks without IPv4 reach IPv4 addresses through it, so it is as public as the address inside."""


def is_public(address: Address) -> bool:
    """Whether it belongs to the public Internet, and to nobody's machine, network, tunnel or metadata service."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_4)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC_6 and address.is_global and not any(address in network for network in _NOT_PUBLIC_6)


def resolve(
    host: str,
    port: int,
    *,
    label: str,
    private_hosts: Sequence[str],
    patience: Patience,
    seconds: float,
    setting: str = "NIGHTOWL_SOURCE_PRIVATE_HOSTS",
) -> list[Address]:
    """The addresses of a host, each of which may be connected to. A literal address counts as its own name.

    `setting` is the one that `private_hosts` come from.

    Raises:
        SourceError: one of them is not public and not allowed, or the name cannot be resolved.
    """
    addresses = _look_up(host, port, label=label, patience=patience, seconds=seconds)
    if host.lower().rstrip(".") in private_hosts:
        return addresses
    networks = [ipaddress.ip_network(entry) for entry in private_hosts if _is_network(entry)]
    for address in addresses:
        if not is_public(address) and not any(address in network for network in networks):
            raise SourceError(
                f"{label}: the host {host} has an address that is not public, which is not allowed (setting {setting})",
                code=Code.SOURCE_REFUSED,
            )
    return addresses


def _look_up(host: str, port: int, *, label: str, patience: Patience, seconds: float) -> list[Address]:
    """getaddrinfo also reads 2130706433, 0x7f.1 and 0177.0.0.1 as addresses, as other programs do."""
    try:
        found = patience.wait_for(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), seconds=seconds)
    except TimeoutError:
        why = f"no answer within {seconds:g} s (setting NIGHTOWL_LIMITS__CONNECT_SECONDS)"
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a host name"
    else:
        return list(dict.fromkeys(_plain(str(sockaddr[0])) for *_, sockaddr in found))
    raise SourceError(
        f"{label}: the host {host} cannot be resolved: {why}", code=Code.SOURCE_UNREACHABLE, retryable=True
    )


def _plain(text: str) -> Address:
    """An IPv4 address in IPv6's clothes (::ffff:a.b.c.d) is the IPv4 address: that is where the system connects."""
    address = ipaddress.ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_network(entry: str) -> bool:
    return "/" in entry
