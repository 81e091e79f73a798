"""The page at `/`: static files that come with the package, and nothing from elsewhere."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE_FOLDER = Path(__file__).parent / "page"

# Python takes types from the system's tables, which lack one and on Windows may call scripts plain.
for _suffix, _type in (
    (".css", "text/css"),
    (".js", "text/javascript"),
    (".svg", "image/svg+xml"),
    (".webmanifest", "application/manifest+json"),
):
    mimetypes.add_type(_type, _suffix)


class PageFiles(StaticFiles):
    """Serves the folder with `index.html` for `/`; browsers ask again each time (by ETag)."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE_FOLDER, html=True, check_dir=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the header that keeps old versions out of caches."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response
