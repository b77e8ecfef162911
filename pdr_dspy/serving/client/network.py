"""The route to a server: its proxy, and whether it is on this machine."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Whether an address belongs to this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: str, setting: str | None) -> str | None:
    """The proxy for requests to an address: the given one, or with "env" the environment's. The environment's proxy is
    never used for this machine: it would connect to itself."""
    if setting != "env":
        return setting
    parts = urlsplit(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
