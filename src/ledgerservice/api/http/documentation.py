"""The page /docs: the description, shown by Swagger UI, and all codes of refusals after it.

It loads nothing from other servers, is readable on a narrow screen, and is dark where the reader's
system is.
"""

import base64
import hashlib

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ledgerservice import __version__
from ledgerservice.api.http.catalogue import CATALOGUE

TITLE = "Ledger service"
ASSETS = "/docs/assets"

_SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();
const place = document.getElementById("swagger-ui");
SwaggerUIBundle({
  url: place.dataset.description,
  domNode: place,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    f"style-src 'self' 'unsafe-inline'; script-src 'self' 'sha256-{_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
}
"""The page runs its own script and Swagger UI, and asks this service only."""

_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("ledgerservice.api.http", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
).get_template("docs.html")


async def docs(request: Request) -> Response:
    """The page."""
    root = request.scope.get("root_path", "")
    page = _PAGE.render(
        title=TITLE,
        root=root,
        assets=f"{root}{ASSETS}",
        catalogue=CATALOGUE,
        script=Markup(_SCRIPT),  # noqa: S704  (it is ours)
    )
    return Response(page, media_type="text/html; charset=utf-8", headers=HEADERS)


async def index(request: Request) -> Response:
    """`/`: a browser gets the page, a program the places where it can begin."""
    root = request.scope.get("root_path", "")
    vary = {"vary": "accept"}
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{root}/docs", headers=vary)
    names = {"documentation": "docs", "description": "openapi.json", "health": "health/ready"}
    places = {name: f"{root}/{path}" for name, path in names.items()}
    return JSONResponse({"service": TITLE, "version": __version__, **places}, headers=vary)
