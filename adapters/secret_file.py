"""Files that hold a secret of the servers, outside the database."""

import os
import stat
from pathlib import Path
from typing import Final

from adapters.settings import SettingsError

BYTES_MAX: Final = 4_096
# Others must not read it, and only its owner may change it. A group may read it: that of a service
# whose files belong to root.
_FORBIDDEN_MODE: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


def read_secret_file(file: str, option: str, make: str) -> bytes:
    """Return the content of a file, at most BYTES_MAX + 1 bytes of it.

    `option` names the file to servers, and `make` is the command that makes one. Raises
    `SettingsError`, whose message has nothing of the file.
    """
    try:
        with Path(file).open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read ({error.strerror}). Check {option}, or make a key with "
            f"`{make}`."
        ) from error
    if mode & _FORBIDDEN_MODE:
        raise SettingsError(
            f"{file} is a secret that others may read or change (its mode is "
            f"{stat.S_IMODE(mode):04o}): `chmod 600 {file}`, or 640 for a group that may sign."
        )
    return content
