"""The web application: security, files of the page, images. Each room of the page adds one router.

Who may ask:
- The Host header must be one that this server is reached by, so a site that points its own name to
  127.0.0.1 reads nothing (DNS rebinding).
- A request that changes something and comes from another site (Origin header) is refused.
- Beyond the loopback interface a token is needed: once in the address, then in a cookie.
- Files are read from the given folders alone, links followed (`places.py`).
- The page runs no script and loads no style but the files of this server (Content-Security-Policy),
  so no text of a question or an answer can become markup.
"""

import hmac
from collections.abc import Sequence
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from focus.lightbox.images import Images
from focus.lightbox.places import Places
from focus.runtime.listen import LOOPBACK

WEB = Path(__file__).parent / "web"
PAGES = ("look", "annotate", "try")
COOKIE = "focus_lightbox"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
KINDS = {
    ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png",
    ".map": "application/json",
}  # fmt: skip


def make_app(
    places: Places, images: Images, rooms: Sequence[APIRouter], token: str | None = None, names: Sequence[str] = LOOPBACK
) -> FastAPI:
    """The application. `rooms` are the routers of its rooms, each under /api/.

    `names` are the hosts, without port, that a request may name; with a token any host may be named.
    """
    app = FastAPI(title="focus lightbox", docs_url=None, redoc_url=None, openapi_url=None)
    for router in rooms:
        app.include_router(router)
    app.add_middleware(_Guard, token=token, names=frozenset(names))
    app.add_exception_handler(ValueError, _sentence)
    app.add_exception_handler(RequestValidationError, _wrong_request)
    app.add_exception_handler(404, _missing)

    @app.get("/")
    def start() -> RedirectResponse:
        return RedirectResponse("/look")

    @app.get("/{page}")
    def page(page: str) -> FileResponse:
        if page not in PAGES:
            raise HTTPException(404, f"there is no page {page}; there are {', '.join(PAGES)}")
        return _file(WEB / f"{page}.html")

    @app.get("/web/{name}")
    def own(name: str) -> FileResponse:
        return _file(WEB / name)

    @app.get("/modules/{path:path}")
    def modules(path: str) -> FileResponse:
        file = (WEB / "node_modules" / path).resolve()
        if not file.is_relative_to((WEB / "node_modules").resolve()) or not file.is_file():
            raise HTTPException(404, f"{path} is not installed; run make env-lightbox")
        return _file(file)

    @app.get("/images/{name:path}")
    def image(name: str) -> Response:
        """A whole image, as its file holds it."""
        return FileResponse(places.image(name), headers={"Cache-Control": "no-cache"})

    @app.get("/zoom/{name:path}")
    def zoom(name: str) -> dict[str, Any]:
        """What a deep-zoom viewer (OpenSeadragon) needs to know about an image."""
        return images.tile_source(images.add(places.image(name)))

    @app.get("/tiles/{key}/{level}/{column}_{row}.jpg")
    def tile(key: str, level: int, column: int, row: int) -> Response:
        content = images.tile(key, level, column, row)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400, immutable"})

    return app


def _file(path: Path) -> FileResponse:
    if not path.is_file() or path.suffix not in KINDS:
        raise HTTPException(404, f"there is no file {path.name}")
    return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})


def _missing(request: Request, error: Exception) -> Response:
    """What is not there: a page for whoever opens the address in a browser, a sentence for a script."""
    if "text/html" in request.headers.get("accept", ""):
        return FileResponse(WEB / "missing.html", 404, media_type=KINDS[".html"])
    return JSONResponse({"detail": error.detail if isinstance(error, StarletteHTTPException) else str(error)}, 404)


def _sentence(_: Request, error: Exception) -> JSONResponse:
    """A ValueError is meant for people: the page shows its sentence."""
    return JSONResponse({"detail": str(error)}, status_code=422)


def _wrong_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, status_code=422)


class _Guard:
    """Refuses requests that may not be answered, and adds the security headers to every answer (ASGI middleware)."""

    def __init__(self, app: Any, token: str | None, names: frozenset[str]) -> None:
        self.app, self.token, self.names = app, token, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        answer = self._refusal(Request(scope)) or self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None for one that does."""
        host = request.headers.get("host", "")
        if not self.token and urlsplit(f"//{host}").hostname not in {name.strip("[]") for name in self.names}:
            return JSONResponse({"detail": f"this server is not called {host}; open {self.names and sorted(self.names)[0]}"}, 421)
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"detail": f"a page of {origin} may not change anything here"}, 403)
        if not self.token:
            return None
        given = parse_qs(request.url.query).get("token", [""])[0]
        if given and hmac.compare_digest(given.encode(), self.token.encode()):
            left = urlencode([(key, value) for key, value in request.query_params.multi_items() if key != "token"])
            answer = RedirectResponse(f"{request.url.path}{'?' * bool(left)}{left}", 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        if cookie and hmac.compare_digest(cookie.value.encode(), self.token.encode()):
            return None
        return JSONResponse({"detail": "this page needs its token: open the address that make lightbox printed"}, 401)
