"""The routes of the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kiloword import __version__
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.serve import metrics as prometheus
from kiloword.runtime.serve.bodies import read_uploads
from kiloword.runtime.serve.guard import SECURITY_HEADERS, Access, Guard, RateLimit
from kiloword.runtime.serve.openapi import openapi_document
from kiloword.runtime.serve.problems import Problem, problem_of, problem_response
from kiloword.runtime.serve.questions import EVENT_STREAM, Questions, parameters, wants_stream
from kiloword.runtime.serve.service import CaptionService

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.serve.limits import ServeLimits

PAGE = Path(__file__).resolve().parent / "page"

_CLIENT_LEFT = 499  # nobody reads it; proxies' logs know the number
_Result = TypeVar("_Result")


def make_app(captioner: Captioner, limits: ServeLimits, access: Access) -> Starlette:
    """The ASGI application.

    Args:
        captioner: What captions; it stays the caller's to close.
        limits: Sizes, numbers, times.
        access: Who may ask.
    """
    server = _Server(captioner, limits, access)
    app = Starlette(
        routes=[
            Route("/", server.page, name="page"),
            Route("/v1/captions", server.captions, methods=["POST"], name="captions"),
            Route("/v1/bundle", server.bundle, name="bundle"),
            Route("/healthz", server.health, name="health"),
            Route("/metrics", server.metrics_text, name="metrics"),
            Route("/openapi.json", server.openapi, name="openapi"),
            Mount("/page", StaticFiles(directory=PAGE), name="files"),
        ],
        middleware=[
            Middleware(_Observed, metrics=server.metrics),
            Middleware(Guard, access=access),
        ],
        exception_handlers={
            Problem: _on_problem,
            HTTPException: _on_http_exception,
            KilowordError: _on_kiloword_error,
            ClientDisconnect: _on_client_left,
            Exception: _on_fault,
        },
        lifespan=server.lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = server.service
    return app


class _Server:
    """What the routes share."""

    def __init__(self, captioner: Captioner, limits: ServeLimits, access: Access) -> None:
        manifest = captioner.bundle.manifest
        known = parameters(limits, manifest.tokens)
        self._captioner = captioner
        self._limits = limits
        self._questions = Questions(
            known, manifest.generation, manifest.tokens, with_attention=manifest.attention is not None
        )
        self._rate = RateLimit(limits.photos_per_second)
        self._document = openapi_document(
            limits, known, with_token=access.token is not None, with_attention=manifest.attention is not None
        )
        self._with_token = access.token is not None
        self.metrics = prometheus.Metrics()
        self.service = CaptionService(captioner, limits, self.metrics)

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Start the threads with the event loop, and end them with it."""
        self.service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.service.close)

    async def page(self, _request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics_text(self, _request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": prometheus.MEDIA_TYPE})

    async def openapi(self, _request: Request) -> Response:
        return JSONResponse(self._document)

    async def bundle(self, _request: Request) -> Response:
        manifest = self._captioner.bundle.manifest
        return JSONResponse(
            {
                "name": manifest.name,
                "precision": manifest.precision,
                "provider": self._captioner.provider,
                "generation": asdict(manifest.generation),
                "image": asdict(manifest.image),
                "attention": manifest.attention is not None,
                "max_photos": self._limits.max_photos,
                "max_photo_bytes": self._limits.max_photo_bytes,
            }
        )

    async def captions(self, request: Request) -> Response:
        """Caption what was sent: one JSON object, or events where the client prefers them."""
        settings = self._questions.read(request)
        with ExitStack() as held:
            # A place before the body is read: what is received counts as much as what waits.
            held.enter_context(self.service.places.take(1))
            self._check_rate(request, 1)
            uploads = await read_uploads(request, self._limits)
            if len(uploads) > 1:
                self._check_rate(request, len(uploads) - 1)
                held.enter_context(self.service.places.take(len(uploads) - 1))
            if wants_stream(request):
                events = self.service.stream(uploads, settings)
                # From here on the answer holds the places, for it outlives this function.
                return _EventResponse(events, held.pop_all(), self._limits.answer_timeout_s)
            answers = await self._in_time(request, self.service.caption_all(uploads, settings))
            return JSONResponse({"captions": answers})

    def _check_rate(self, request: Request, photos: int) -> None:
        address = request.client.host if request.client else ""
        wait_s = self._rate.seconds_to_wait(address, photos)
        if wait_s > 0:
            raise Problem(
                429,
                f"more than {self._limits.photos_per_second:g} photos a second from one address",
                headers={"Retry-After": str(max(1, round(wait_s)))},
            )

    async def _in_time(self, request: Request, work: Awaitable[_Result]) -> _Result:
        """Wait for work, but not longer than the limit, nor for a client that has left."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait(
                (task, leaving),
                timeout=self._limits.answer_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if task.done():
                return task.result()
            if leaving.done():
                raise ClientDisconnect
            retry = {"Retry-After": str(self.service.retry_after_s())}
            raise Problem(503, f"no answer within {self._limits.answer_timeout_s:g} s", headers=retry)
        finally:
            leaving.cancel()
            task.cancel()


async def _left(request: Request) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _EventResponse(StreamingResponse):
    """Server-sent events; gives the places back however it ends.

    Source: WHATWG HTML, section 9.2, server-sent events.
    """

    def __init__(self, events: AsyncIterator[Any], held: ExitStack, timeout_s: float) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._lines(events), media_type=EVENT_STREAM, headers=headers)
        self._events = events
        self._held = held
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(self._timeout_s):  # a client that does not read gets no more
                await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()  # type: ignore[attr-defined]
            self._held.close()

    async def _lines(self, events: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for event in events:
            yield f"event: {event.name}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"


class _Observed:
    """ASGI middleware: counts answers, times them, and puts the security headers on each."""

    def __init__(self, app: ASGIApp, metrics: prometheus.Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), _CLIENT_LEFT

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in added if one[0] not in present)]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            self._metrics.requests.add(_route_of(scope), str(status))
            self._metrics.request_seconds.observe(time.perf_counter() - start)


def _route_of(scope: Scope) -> str:
    """The route's own path, never what the client wrote: that would make a new time series each time."""
    endpoint = scope.get("endpoint")
    if isinstance(endpoint, StaticFiles):
        return "/page"
    return scope["path"] if endpoint is not None else "none"


_Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _on_problem(_request: Request, error: Exception) -> Response:
    return error.response() if isinstance(error, Problem) else await _on_fault(_request, error)


async def _on_kiloword_error(_request: Request, error: Exception) -> Response:
    known = error if isinstance(error, KilowordError) else KilowordError(str(error))
    return problem_of(known).response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: 404 and 405."""
    if not isinstance(error, HTTPException):
        return await _on_fault(request, error)
    details = {404: "there is nothing at this path", 405: f"{request.method[:20]} is not possible here"}
    detail = details.get(error.status_code, error.detail)
    return problem_response(error.status_code, detail, headers=error.headers)


async def _on_client_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return problem_response(500, "the server made a mistake; its log has the rest")
