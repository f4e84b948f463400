"""The files of the pages. Their URLs have their hashes, so that browsers keep them for ever."""

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PLACE = "/console/static"
HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


class Asset(NamedTuple):
    """A file, as it is and compressed."""

    hash: str
    media_type: str
    content: bytes
    compressed: bytes


@cache
def assets() -> dict[str, Asset]:
    """All files by their names."""
    folder = files("ledgerservice.console") / "static"
    return {
        file.name: _asset(TYPES[ending], file.read_bytes())
        for file in folder.iterdir()
        if (ending := file.name.rpartition(".")[2]) in TYPES
    }


def _asset(media_type: str, content: bytes) -> Asset:
    digest = hashlib.sha256(content).hexdigest()[:16]
    return Asset(digest, media_type, content, gzip.compress(content, mtime=0))


def path_of(name: str) -> str:
    """The path of a file."""
    return f"{PLACE}/{assets()[name].hash}/{name}"


def asset(request: Request, digest: str, name: str) -> Response | None:
    """A file as the browser takes it; None if there is no such file with this hash."""
    file = assets().get(name)
    if file is None or file.hash != digest:
        return None
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers = HEADERS | {"content-encoding": "gzip"}
        return Response(file.compressed, media_type=file.media_type, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=HEADERS)
