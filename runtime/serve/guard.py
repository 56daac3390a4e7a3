"""Who may ask: checks that run before any route, on the head of a request alone.

A server on 127.0.0.1 is reachable by every page that the user's browser shows. Two checks keep those out: the
Host must be an address or a name that was allowed, so that a foreign name that was made to resolve to this
machine (DNS rebinding) gets nothing; and a request that a page of another origin made is refused.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kiloword.runtime.serve.problems import Problem

_MAX_ADDRESSES = 4096
_OPEN_PATHS = ("/", "/healthz", "/openapi.json")
_OPEN_FOLDER = "/page/"
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    token: str | None = None
    """What a request must carry as ``Authorization: Bearer``; None: nothing."""
    hosts: Collection[str] = ()
    """Names besides localhost and plain addresses by which this server may be called."""


class Guard:
    """ASGI middleware: Host, Origin and token.

    The page and what says whether the server lives are open; they hold nothing of anybody's.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._token = None if access.token is None else access.token.encode()
        self._hosts = {host.lower() for host in (*access.hosts, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_host(headers)
        self._check_origin(scope, headers)
        path = scope["path"]
        if self._token is not None and path not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            self._check_token(headers)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise Problem(400, "the request has no valid Host header")
        if name not in self._hosts and not is_address(name):
            raise Problem(
                403,
                f"this server is not called {name[:80]!r}",
                hint="http://127.0.0.1, or start it with --allow-host NAME",
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse what a page of another origin asks; programs send no Origin, our own page sends ours."""
        origin = headers.get("origin")
        foreign = origin is not None and not _same_origin(origin, headers["host"])
        # Old browsers leave Origin out where the newer header tells the same.
        foreign |= headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in _READING
        if foreign:
            raise Problem(403, "pages of other origins may not use this server")

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Compared in constant time, so that answers do not tell how much of a guess was right.
        right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token or b"")
        if scheme.lower() != "bearer" or not right:
            detail = "the token is wrong" if given else "this server wants a token"
            hint = "-H 'Authorization: Bearer TOKEN', with the token that the server was started with"
            raise Problem(401, detail, hint=hint, headers={"WWW-Authenticate": 'Bearer realm="kiloword"'})


def host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is malformed.

    >>> host_name("LOCALHOST:8765"), host_name("[::1]:80"), host_name("a b")
    ('localhost', '::1', None)
    """
    if not host or any(character in host for character in "/?#@\\ \t%"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.port is None or parts.port > 0 else None
    except ValueError:  # a port that is no number, or a broken [address]
        return None


def is_address(name: str) -> bool:
    """True for an IP address, which no DNS server can make point elsewhere."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(origin: str, host: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return separator != "" and scheme in ("http", "https") and rest.lower() == host.lower()


class RateLimit:
    """A bucket of photos for each address, refilled at a steady rate.

    Args:
        per_second: Photos an address may send in a second, on average; None: any number.
        burst_s: Seconds' worth of photos that may come at once.
        clock: Seconds that only go forward.

    Source: token bucket.

    >>> limit = RateLimit(2.0, burst_s=1.0, clock=lambda: 0.0)
    >>> [limit.seconds_to_wait("10.0.0.1", 1) for _ in range(3)]
    [0.0, 0.0, 0.5]
    """

    def __init__(
        self, per_second: float | None, *, burst_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._most = 0.0 if per_second is None else max(1.0, per_second * burst_s)
        self._clock = clock
        # What an address has left, and when that was counted; the longest unseen is forgotten first.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, address: str, photos: int) -> float:
        """Take photos from an address's bucket.

        Returns:
            0 where it may send them now; else the seconds until it may, and nothing was taken. More photos
            than a bucket holds are let through when it is full, and paid for afterwards.
        """
        if self._per_second is None:
            return 0.0
        key, now = _network(address), self._clock()
        left, counted = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - counted) * self._per_second)
        needed = min(float(photos), self._most)
        allowed = left >= needed
        self._left[key] = (left - photos if allowed else left, now)
        while len(self._left) > _MAX_ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if allowed else (needed - left) / self._per_second


def _network(address: str) -> str:
    """An IPv6 client owns a /64 and could otherwise take a new address for each request."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


SECURITY_HEADERS: Mapping[str, str] = {
    # Everything comes from this server; pictures that were dropped are blobs of the page itself.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer."""
