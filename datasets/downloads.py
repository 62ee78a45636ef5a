"""Files from the network, only when asked for and only with a checksum, and archives that cannot write elsewhere."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mmengine.logging import print_log

from perception.errors import DataError

SCHEMES = ("https", "http", "file")
_TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: under which it is kept.
        url: where it comes from: https, http or file.
        checksum: ``md5:`` or ``sha256:`` and the digest in hexadecimal. There is no download without one.
    """

    name: str
    url: str
    checksum: str

    def __post_init__(self) -> None:
        kind, _, digest = self.checksum.partition(":")
        lengths = {"md5": 32, "sha256": 64}
        if len(digest) != lengths.get(kind) or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"{self.name}: {self.checksum!r} is no 'md5:<32 digits>' or 'sha256:<64 digits>'")
        if self.url.partition(":")[0] not in SCHEMES:
            raise ValueError(f"{self.name}: {self.url!r} is none of {', '.join(SCHEMES)}")


def fetch_file(source: RemoteFile, folder: Path) -> Path:
    """``folder / source.name``, downloaded unless it is there already; the checksum is verified either way.

    The bytes go to a temporary name beside it, which is renamed only once they are complete and as published, so that
    nobody ever sees half a file.

    Raises:
        DataError: no connection, no room, or another checksum. A file that was there before is left alone.
    """
    target = folder / source.name
    if target.exists():
        verify(target, source, f"; delete it to fetch it from {source.url}")
        return target
    temporary = target.with_name(f".{source.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _receive(source, temporary)
            verify(temporary, source)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DataError(f"{source.url} could not be fetched to {str(target)!r}: {reason}") from error
    print_log(f"fetched {target} ({target.stat().st_size:,} bytes) from {source.url}", logger="current")
    return target


def _receive(source: RemoteFile, path: Path) -> None:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    request = urllib.request.Request(source.url, headers={"User-Agent": "perception"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer, open(path, "xb") as handle:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        columns = (source.name, DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(source.name, total=total)
            while block := answer.read(_BLOCK):
                handle.write(block)
                progress.advance(task, len(block))
        handle.flush()
        os.fsync(handle.fileno())


def verify(path: Path, source: RemoteFile, advice: str = "") -> None:
    """Compare a file with the published checksum; ``advice`` ends the message.

    Raises:
        DataError: it is another file, or damaged.
    """
    kind, _, expected = source.checksum.partition(":")
    with open(path, "rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != expected:
        text = f"{source.name} in {str(path.parent)!r} has the {kind} {found}, but {expected} was published"
        raise DataError(f"{text}: it is damaged or another version{advice}")


def extract(archive: Path, folder: Path) -> list[str]:
    """Unpack a zip or tar (plain, gz, bz2 or xz) into ``folder``; names of what lies there afterwards, sorted.

    Everything goes to a temporary folder inside ``folder`` first and is renamed when it is whole. Only files and
    folders below ``folder`` are made: no absolute or climbing paths, no links, no devices, no permissions.

    Where another process unpacked the same in the meantime, its folders stay.

    Raises:
        DataError: the archive is no zip or tar, damaged, encrypted or unsafe; it would replace something; there is no
            room for what it holds.
    """
    try:
        before = set(os.listdir(folder))
        with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=folder) as temporary:
            inside = Path(temporary)
            _unpack(archive, inside)
            names = sorted(path.name for path in inside.iterdir())
            taken = sorted(before.intersection(names))
            if taken:
                raise DataError(f"archive {str(archive)!r} would replace {taken[0]!r} in {str(folder)!r}")
            for name in names:
                if not (folder / name).exists():
                    os.rename(inside / name, folder / name)
    except _BROKEN as error:
        raise DataError(f"archive {str(archive)!r} is damaged, or no zip or tar: {error}") from error
    except OSError as error:
        raise DataError(f"archive {str(archive)!r} cannot be unpacked into {str(folder)!r}: {error}") from error
    if not names:
        raise DataError(f"archive {str(archive)!r} is empty")
    return names


_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


def _unpack(archive: Path, folder: Path) -> None:
    with open(archive, "rb") as handle:  # zipfile.is_zipfile looks at the end, where a tar may hold a zip
        members = _zip_members if handle.read(2) == b"PK" else _tar_members
    room = shutil.disk_usage(folder).free
    for name, size, content in members(archive):
        path = folder.joinpath(*_safe_parts(name, archive))
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        room -= size
        if room < 0:
            raise DataError(f"archive {str(archive)!r} holds more than the free space of {str(folder.parent)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with content, open(path, "xb") as handle:  # "x": a name that comes twice is an error
            shutil.copyfileobj(content, handle, _BLOCK)
        if path.stat().st_size != size:
            raise DataError(f"archive {str(archive)!r} is damaged: {name!r} ends early")


def _safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    """Parts of a member's path.

    Raises:
        DataError: the path leaves the folder, or would on another system.
    """
    path = PurePosixPath(name)
    parts = path.parts
    if path.is_absolute() or ".." in parts or re.search(r"\\|\0|^[A-Za-z]:", name):
        raise DataError(f"archive {str(archive)!r} holds the unsafe path {name!r}: refused, nothing was unpacked")
    return parts


Members = Iterator[tuple[str, int, "IO[bytes] | None"]]


def _zip_members(archive: Path) -> Members:
    """Name, size and content (None of a folder) of every member."""
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _unsafe(archive, member.filename)
            if member.flag_bits & 1:
                raise DataError(f"archive {str(archive)!r} is encrypted ({member.filename!r})")
            yield member.filename, member.file_size, None if member.is_dir() else file.open(member)


def _tar_members(archive: Path) -> Members:
    """Likewise."""
    with tarfile.open(archive, "r:*") as file:
        for member in file:
            if not (member.isfile() or member.isdir()):
                raise _unsafe(archive, member.name)
            content: Any = file.extractfile(member) if member.isfile() else None
            yield member.name, member.size, content


def _unsafe(archive: Path, name: str) -> DataError:
    return DataError(f"archive {str(archive)!r} holds {name!r}, a link or device: refused, nothing was unpacked")
