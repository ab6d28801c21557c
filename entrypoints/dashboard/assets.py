"""The files that pages load: ours, and the libraries that the installation brought.

Their path contains a digest of all of them, so browsers may cache them without a limit.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from litestar.datastructures import CacheControlHeader
from litestar.router import Router
from litestar.static_files import create_static_files_router

FOLDER: Final = Path(__file__).parent / "static"
_YEAR_SECONDS: Final = 31_536_000


@cache
def static_path() -> str:
    digest = sha256()
    for file in sorted(FOLDER.rglob("*")):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return f"/static/{digest.hexdigest()[:12]}"


def assets() -> Router:
    return create_static_files_router(
        path=static_path(),
        directories=[FOLDER],
        include_in_schema=False,
        cache_control=CacheControlHeader(max_age=_YEAR_SECONDS, immutable=True),
    )
