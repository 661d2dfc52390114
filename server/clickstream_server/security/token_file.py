"""The tokens file as the server sees it, and as `clickstream token` changes it."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

from clickstream_server.config import Settings
from clickstream_server.failures import StartFailure
from clickstream_server.security.tokens import FILE_BYTES_MAX, TokenLine, TokensFault, read_lines

_log = logging.getLogger(__name__)


class TokenFile:
    """The tokens that count now. Its maker must call `look` now and then; raises StartFailure if it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._content = read_tokens(path)
            self.lines = read_lines(self._content)
        except (OSError, TokensFault) as error:
            raise StartFailure(f"CLICKSTREAM_TOKENS_FILE: {_said(path, error)}") from error
        self._wrong = ""
        self._emptied: bytes | None = None
        if not self.lines:
            _log.warning("%s holds no tokens: nobody is let in", path)

    def look(self) -> None:
        """Take what the file says now. If it cannot be used, the tokens from before stay, and an error is logged.

        It is read whole every time: that it was written to, or another one put in its place, cannot be overlooked.
        That nobody is let in any more counts once it is so twice: who writes over a file empties it first.
        """
        try:
            content = read_tokens(self._path)
            lines = self.lines if content == self._content else read_lines(content)
        except (OSError, TokensFault) as error:
            if (wrong := _said(self._path, error)) != self._wrong:
                _log.error("%s; the tokens from before still count", wrong)
                self._wrong = wrong
            self._emptied = None
            return
        if self.lines and not lines and content != self._emptied:
            self._emptied = content
            return
        self._emptied = None
        if self._wrong or lines is not self.lines:
            _log.log(
                logging.INFO if lines and not self._wrong else logging.WARNING,
                "%s was read again: %s",
                self._path,
                f"{len(lines)} tokens" if lines else "it is empty, nobody is let in",
            )
        self._content, self.lines, self._wrong = content, lines, ""


def opened_tokens(settings: Settings) -> TokenFile | None:
    """That of the settings; None without tokens. Raises StartFailure."""
    return None if settings.tokens_file is None else TokenFile(settings.tokens_file)


def read_tokens(path: Path) -> bytes:
    """The file's content. Raises OSError, or TokensFault if it cannot be trusted."""
    with open(path, "rb", opener=_without_waiting) as file:  # a Path takes no opener
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise TokensFault("it is not a file")
        if mode & stat.S_IWOTH:
            raise TokensFault("everyone on this machine may write to it, and so let himself in: chmod o-w it")
        return file.read(FILE_BYTES_MAX + 1)


def _without_waiting(path: str, flags: int) -> int:
    """For a pipe: it would open only once somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def change(path: Path, changed: Callable[[bytes], bytes]) -> None:
    """Put the changed content in the place of the file, or make it, readable by its owner only.

    A server that reads it meanwhile gets the one or the other. Raises OSError or TokensFault.
    """
    path = path.resolve()
    with _one_at_a_time(path.parent):
        before = path.stat() if path.exists() else None
        content = changed(b"" if before is None else read_tokens(path))
        read_lines(content)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                if before is not None:  # a server that runs as somebody else must still be able to read it
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
                    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


def lines_in(path: Path) -> dict[str, TokenLine]:
    """The tokens of the file. Raises StartFailure."""
    try:
        return read_lines(read_tokens(path))
    except (OSError, TokensFault) as error:
        raise StartFailure(_said(path, error)) from error


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep out others that change a file in this folder. The file itself cannot be locked: it is replaced."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _said(path: Path, error: OSError | TokensFault) -> str:
    what = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else f"cannot be used: {error}"
    return f"{path} {what}"
