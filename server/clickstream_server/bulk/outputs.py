"""Where an export goes: standard output, a device, or a file that has its name only when it is complete."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

from clickstream_server.failures import StartFailure

STDOUT = "-"
_OPEN_ALREADY = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
_DESCRIPTORS = {STDOUT: 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/([0-9]{1,9})")
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """So many bytes, and their digest in hexadecimal."""

    count: int
    sha256: str


class Output(io.RawIOBase):
    """Bytes on their way to a file. `sha256` is of what was written, before its compression; so is `tell`.

    `part`: what has no name yet. `state`: what its writer may keep beside it, to go on with; it goes when the part is
    begun anew, and with the part.
    """

    def __init__(self, output: str, *, behind: Written | None = None) -> None:
        """Raises StartFailure. `behind`: go on behind these bytes of the part that is there, which must be these."""
        super().__init__()
        self.sha256 = hashlib.sha256()
        self.name = "standard output" if output == STDOUT else output
        self._count = 0
        self._path = None if output == STDOUT else Path(output)
        self.part = part_of(output) if has_part(output) else None
        self.state = state_of(output)
        try:
            if self.part is None:
                self._raw: Any = _opened(output)
            else:
                self._raw, self._mode = _locked(self.part, Path(output), keep=behind is not None)
                if behind is None:
                    self.state.unlink(missing_ok=True)
                else:
                    self._read_again(behind)
        except OSError as error:
            raise self._failed(error) from error
        self._whole = _Whole(self._raw)
        self._packer = _packer(self._path, self._whole)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        """All of it. Raises StartFailure: a full disk, a reader that went away."""
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self._count += len(view)
        try:
            self._packer.write(view)
        except OSError as error:
            raise self._failed(error) from error
        return len(view)

    def tell(self) -> int:
        return self._count

    @property
    def written(self) -> Written:
        """What was written so far."""
        return Written(self._count, self.sha256.hexdigest())

    def commit(self) -> None:
        """Everything is written: give the file its name. Raises StartFailure."""
        try:
            if self._packer is not self._whole:
                self._packer.close()
            if self.part is not None and self._path is not None:
                _set_mode(self._raw.fileno(), self._mode)
                os.fsync(self._raw.fileno())
                # While it is locked: afterwards all of these may be another export's.
                self.state.unlink(missing_ok=True)
                self.part.replace(self._path)
            self._raw.close()
        except OSError as error:
            raise self._failed(error) from error

    def abandon(self, *, keep: bool) -> None:
        """It is not complete. `keep`: leave the part, to go on with."""
        if self.part is not None and not keep:
            self.state.unlink(missing_ok=True)  # before it is closed, as above
            self.part.unlink(missing_ok=True)
        self._raw.close()

    def _read_again(self, behind: Written) -> None:
        left = behind.count
        while left and (data := self._raw.read(min(_PIECE_BYTES, left))):
            self.sha256.update(data)
            left -= len(data)
        self._count = behind.count - left
        if self.written != behind:
            self._raw.close()
            raise StartFailure(f"{self.part} is not as it was left: export again without --resume")
        self._raw.truncate(self._count)

    def _failed(self, error: OSError) -> StartFailure:
        if isinstance(error, BrokenPipeError):
            return StartFailure(f"the reader of {self.name} went away; the export is not complete")
        return StartFailure(f"cannot write {self.name}: {error.strerror or error}; the export is not complete")


class _Whole:
    """A raw file whose write writes all of it, and nothing once that is closed.

    For gzip writes its end when it is collected, which would make a whole stream of one that was given up.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def write(self, data: Any) -> int:
        view = memoryview(data)
        at = 0
        while at < len(view) and not self._raw.closed:
            written = self._raw.write(view[at:])
            if written is None:  # it does not block, as whoever opened it wants it, and has no room now
                select([], [self._raw], [])
            at += written or 0
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""


def descriptor_of(output: str) -> int | None:
    """The number under which it is open already; None: by its name it is opened anew."""
    found = _DESCRIPTOR.fullmatch(output)
    return _DESCRIPTORS.get(output) if found is None else int(found[1])


def _opened(output: str) -> Any:
    """What is written to as it is. A file that is open already goes on where it stands, and keeps what it has."""
    if (number := descriptor_of(output)) is not None:
        return open(number, "wb", buffering=0, closefd=False)
    return Path(output).open("ab", buffering=0)  # another process may have it open, and wants none of it cut off


def _locked(part: Path, file: Path, *, keep: bool) -> tuple[Any, int | None]:
    """The part, open for this export alone: two that write it at once would make one whole file of two halves.

    With it the mode that the file is to have in the end, if it replaces another one.
    """
    before = file.stat() if file.exists() else None
    mode = 0o666 if before is None else 0o600

    def opened(path: str, flags: int) -> int:
        return os.open(path, flags, mode)

    raw = open(part, "r+b" if keep else "ab", buffering=0, opener=opened)  # noqa: SIM115  # it stays open
    try:
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = not os.path.samestat(os.fstat(raw.fileno()), part.stat())  # it got its name a moment ago
    except (BlockingIOError, FileNotFoundError):
        taken = True
    if taken:
        raw.close()
        raise StartFailure(f"another export is writing {part}")
    if not keep and raw.seekable():
        raw.truncate(0)
    if before is None:
        return raw, None
    mode = _owned_like(raw.fileno(), before)
    _set_mode(raw.fileno(), mode | stat.S_IRUSR | stat.S_IWUSR)  # whoever writes it may have to open it again
    return raw, mode


def _owned_like(descriptor: int, before: os.stat_result) -> int:
    """Give the part to whom the file belongs that it replaces; return the mode that lets nobody else read it.

    It holds personal data.
    """
    mode = stat.S_IMODE(before.st_mode) & 0o777
    now = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except OSError:  # not allowed, or not known there: the group, which may be another, may do what everybody may
            mode = mode & 0o707 | (mode & 0o007) << 3
    return mode


def _set_mode(descriptor: int, mode: int | None) -> None:
    """Unless it is so already: file systems without modes have one for all, and refuse another."""
    if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def part_of(output: str) -> Path:
    """What a file is called until it is complete."""
    return Path(f"{output}.part")


def state_of(output: str) -> Path:
    """What stands beside a part, to go on with."""
    return Path(f"{output}.part.resume")


def has_part(output: str) -> bool:
    """Whether it is a file that gets its name when it is complete.

    Devices and named pipes have theirs, and so have files that are open already: /dev/stdout must not be replaced.
    """
    if output == STDOUT or output.startswith(_OPEN_ALREADY):
        return False
    return Path(output).is_file() or not Path(output).exists()


def compressed(output: str) -> bool:
    return output.endswith((".gz", ".zst"))


def _packer(path: Path | None, raw: Any) -> Any:
    suffix = "" if path is None else path.suffix
    if suffix == ".gz":
        # Without a name and a time in its header, so that equal exports are equal files.
        return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise StartFailure("to write .zst files: pip install zstandard") from error
        return zstandard.ZstdCompressor().stream_writer(raw, closefd=False)
    return raw
