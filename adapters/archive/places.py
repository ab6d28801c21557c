"""The places where segments lie: a directory, or an object store that fsspec knows.

A file appears under its name whole or not at all, and is never changed.
"""

import contextlib
import fcntl
import importlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import urlsplit

from domain.language.errors import ArchiveUnavailable, FairlogError, SegmentUnusable

_PART: Final = ".fairlog-"  # how the names of unfinished files begin
_TEST: Final = ".fairlog-write-test"


class NewFile(Protocol):
    """A file that is being written."""

    file: BinaryIO

    def keep(self, name: str) -> None:
        """Give it its name, once it is written: durable, and in the place of an earlier one."""


class Place(Protocol):
    """Raises `ArchiveUnavailable` wherever it cannot be read or written."""

    def check_writable(self) -> None:
        """Write a file and remove it. Raises `ArchiveUnavailable` with what to do."""

    def names(self) -> list[str]:
        """Return the names of all files, in their order."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes. Raises `SegmentUnusable` if there is none."""

    def open(self, name: str) -> BinaryIO:
        """Open a file to read. Raises `SegmentUnusable` if there is none."""

    def new_file(self) -> "contextlib.AbstractContextManager[NewFile]":
        """Yield a file to write. It is gone at the end unless `keep` was called."""

    def remove(self, name: str) -> None:
        """Delete a file; if there is none, nothing happens."""


def place_of(location: str) -> Place:
    """Return a directory, or for a URL (other than `file:`) a place in an object store."""
    scheme = urlsplit(location).scheme
    if "://" in location and scheme != "file":
        return _Store(location)
    return _Directory(Path(location.removeprefix("file://")))


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def check_writable(self) -> None:
        if not self._path.is_dir():
            what = "is not a directory" if self._path.exists() else "does not exist; create it"
            raise ArchiveUnavailable(f"The archive's directory {self._path} {what}.")
        self._remove_abandoned()
        with self._translated("written"):
            file = self._path / f"{_TEST}-{secrets.token_hex(4)}"
            try:
                file.write_bytes(b"fairlog")
            finally:
                file.unlink(missing_ok=True)

    def names(self) -> list[str]:
        if not self._path.is_dir():
            raise ArchiveUnavailable(f"There is no directory {self._path}; check --archive.")
        with self._translated("read"):
            found = [one.name for one in self._path.iterdir() if one.is_file()]
        return sorted(name for name in found if not name.startswith(_PART))

    def size(self, name: str) -> int:
        with self._translated("read", name):
            return (self._path / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        with self._translated("read", name):
            return (self._path / name).open("rb")

    @contextmanager
    def new_file(self) -> Iterator[NewFile]:
        part = self._path / f"{_PART}{secrets.token_hex(6)}.part"
        try:
            with self._translated("written"), part.open("xb") as file:
                with contextlib.suppress(OSError):  # no locks on this file system
                    fcntl.flock(file, fcntl.LOCK_EX)
                yield _Part(self._path, part, file)
        finally:
            part.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        with self._translated("written"):
            (self._path / name).unlink(missing_ok=True)
            _sync_directory(self._path)

    def _remove_abandoned(self) -> None:
        """Delete unfinished files of processes that were killed: nobody has a lock on them."""
        with self._translated("written"):
            for part in self._path.glob(f"{_PART}*.part"):
                with contextlib.suppress(OSError), part.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()

    @contextmanager
    def _translated(self, done: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if name:
                raise _missing(name, str(self._path)) from error
            raise ArchiveUnavailable(f"There is no directory {self._path}.") from error
        except OSError as error:
            raise ArchiveUnavailable(
                f"The archive's directory {self._path} cannot be {done}: {error.strerror or error}."
            ) from error


class _Part:
    """An unfinished file in a directory."""

    def __init__(self, directory: Path, part: Path, file: BinaryIO) -> None:
        self.file = file
        self._directory = directory
        self._part = part

    def keep(self, name: str) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self._part.replace(self._directory / name)
        _sync_directory(self._directory)


class _Store:
    """An object store. A file is written here first, since its name depends on its content."""

    def __init__(self, url: str) -> None:
        try:
            fsspec: Any = importlib.import_module("fsspec.core")
        except ImportError:
            raise FairlogError(
                "An archive at a URL needs fsspec: install it with Fairlog (pip install "
                "fairlog[object-store]), and the package that it names for this kind of store."
            ) from None
        self._url = url
        with self._translated("used"):
            self._store, self._root = fsspec.url_to_fs(url)
        self._root = self._root.rstrip("/")

    def check_writable(self) -> None:
        with self._translated("written"):
            self._store.makedirs(self._root, exist_ok=True)  # where there are directories
            name = f"{_TEST}-{secrets.token_hex(4)}"
            self._store.pipe_file(self._path(name), b"fairlog")
            self._store.rm_file(self._path(name))

    def names(self) -> list[str]:
        with self._translated("read"):
            self._store.invalidate_cache()
            found = self._store.ls(self._root, detail=False)
        named = [str(path).rstrip("/").rpartition("/")[2] for path in found]
        return sorted(name for name in named if not name.startswith(_PART))

    def size(self, name: str) -> int:
        with self._translated("read", name):
            self._store.invalidate_cache()
            return int(self._store.info(self._path(name))["size"])

    def open(self, name: str) -> BinaryIO:
        with self._translated("read", name):
            file: BinaryIO = self._store.open(self._path(name), "rb")
            return file

    @contextmanager
    def new_file(self) -> Iterator[NewFile]:
        with tempfile.TemporaryFile() as file:
            yield _Upload(self, file)

    def remove(self, name: str) -> None:
        with self._translated("written"), contextlib.suppress(FileNotFoundError):
            self._store.rm_file(self._path(name))

    def upload(self, file: BinaryIO, name: str) -> None:
        with self._translated("written"), self._store.open(self._path(name), "wb") as target:
            shutil.copyfileobj(file, target, 1024 * 1024)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _translated(self, done: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except FairlogError:
            raise
        except FileNotFoundError as error:
            if name:
                raise _missing(name, self._url) from error
            raise ArchiveUnavailable(
                f"There is nothing at {self._url}; check --archive."
            ) from error
        except Exception as error:  # each kind of store has errors of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ArchiveUnavailable(
                f"The archive at {self._url} cannot be {done}: {reason}."
            ) from error


class _Upload:
    """A file that is copied to an object store once it is written."""

    def __init__(self, store: _Store, file: BinaryIO) -> None:
        self.file = file
        self._store = store

    def keep(self, name: str) -> None:
        self.file.seek(0)
        self._store.upload(self.file, name)


def _missing(name: str, place: str) -> SegmentUnusable:
    return SegmentUnusable(
        f"The segment {name} is missing in {place}: bring it back from a copy, or check --archive."
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
