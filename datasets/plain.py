"""Refuse what never ends where a file is to be read: devices, pipes and sockets, also behind a link."""

from __future__ import annotations

import errno
import stat
from pathlib import Path


def plain(path: Path) -> Path:
    """Return the path of a file on a disk.

    Raises:
        OSError: There is nothing; or something that could fill the memory or wait for ever. A folder passes: the system
            says itself what is wrong with reading one.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket, and no plain file", str(path))
    return path
