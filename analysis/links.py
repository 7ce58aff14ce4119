"""Links in folders of results: never followed, because they may lead anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BadRun


def refuse_links(folder: str | Path) -> None:
    """Refuse a folder in which anything is a symbolic link; folders in it are not looked into.

    Reading through a link would show a file from elsewhere as if it belonged to the run, and a job would write where it
    leads. The folder itself may be reached through a link: that is how a user named it.

    Raises:
        BadRun: Something is a link; it is named.
    """
    try:
        with os.scandir(folder) as entries:
            linked = sorted(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return  # what is not there is said by whoever reads it
    if linked:
        raise BadRun(
            f"{folder}: {linked[0]} is a link, and links in a run are not followed. Copy the file in its place."
        )
