"""The routes of a transparency log: its signed checkpoint, and the tiles of its Merkle tree.

They are those of https://c2sp.org/tlog-tiles, but for entry bundles: entries have user ids and what
users sent as keys, which `/v1/audit` shows to those who may see them.
"""

import re
from typing import Annotated, Final

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter

from domain.language.identifiers import POSITION_MAX
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.signed_checkpoints import (
    TILE_LEVEL_MAX,
    SignedCheckpoints,
    Tile,
    UnknownTile,
)
from projections.following.merkle import TILE

_BYTES: Final = "application/octet-stream"
# One form for each tile: no leading zeros but those that fill groups of three digits.
_TILE: Final = re.compile(
    r"/(0|[1-9][0-9]?)"  # level
    r"/((?!x000/)(?:x[0-9]{3}/){0,6}[0-9]{3})"  # index
    r"(?:\.p/([1-9][0-9]{0,2}))?"  # width of a partial tile
)
_ENTRIES: Final = "/entries/"
# A tile never changes: a partial one has its width in its address.
_FOR_EVER: Final = "max-age=31536000, immutable"

TilePath = Annotated[
    str,
    PathParameter(
        description="LEVEL/INDEX, or LEVEL/INDEX.p/WIDTH for a tile with fewer than 256 hashes. "
        "The index is written in groups of three digits: 0/x001/234 is tile 1234 of level 0."
    ),
]


@get("/checkpoint", media_type=MediaType.TEXT, tags=["audit"])
async def checkpoint(
    fairlog: NamedDependency[Fairlog], signed_checkpoints: NamedDependency[SignedCheckpoints]
) -> Response[str]:
    """Return the number of events and the root of the Merkle tree over them, signed by the key of
    the server, as a checkpoint of https://c2sp.org/tlog-checkpoint.
    """
    return Response(await fairlog.read(signed_checkpoints.latest), media_type=MediaType.TEXT)


@get(
    "/tile/{path:path}",
    media_type=_BYTES,
    tags=["audit"],
    responses={
        200: ResponseSpec(bytes, media_type=_BYTES, description="The hashes, 32 bytes each.")
    },
)
async def tile(
    path: TilePath,
    fairlog: NamedDependency[Fairlog],
    signed_checkpoints: NamedDependency[SignedCheckpoints],
    checkpoints_are_public: NamedDependency[bool],
) -> Response[bytes]:
    """Return hashes of the Merkle tree, as a tile of https://c2sp.org/tlog-tiles. It may be cached
    for ever.
    """
    wanted = tile_at(path)
    content = await fairlog.read(lambda connection: signed_checkpoints.tile(connection, wanted))
    who = "public" if checkpoints_are_public else "private"
    return Response(content, media_type=_BYTES, headers={"Cache-Control": f"{who}, {_FOR_EVER}"})


def tile_at(path: str) -> Tile:
    """Return the tile that a path names, from the slash before its level on.

    Raises `UnknownTile`.
    """
    if path.startswith(_ENTRIES):
        raise UnknownTile(
            "Entries are not published, since they name users: /v1/audit has the events, and "
            "`fairlog audit prove` writes one as it is hashed."
        )
    found = _TILE.fullmatch(path)
    if found is not None:
        level, index = int(found[1]), int(re.sub("[x/]", "", found[2]))
        if level <= TILE_LEVEL_MAX and index <= POSITION_MAX:
            if found[3] is None:
                return Tile(level, index)
            if (width := int(found[3])) < TILE:
                return Tile(level, index, width)
    raise UnknownTile(
        "There is no tile at this address; tiles are at /tile/LEVEL/INDEX, with the index in "
        "groups of three digits (/tile/0/x001/234), and .p/WIDTH for a partial one."
    )
