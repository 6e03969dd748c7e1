"""The folders that the page may read, and names for the files in them.

The page never sends a path. It sends a name: the number of the folder and the path in it,
`0/stage1/trajectories/images/1f.png`.
"""

from collections.abc import Sequence
from pathlib import Path

from fastapi import HTTPException

from focus.data.images.header import image_size


class Places:
    """The given folders, in their order. Links are followed before a path is compared with a folder."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [folder.resolve() for folder in folders]

    def path(self, name: str) -> Path:
        """The file or folder of a name. Raises HTTPException 404 if it lies outside of the folders or does not exist."""
        number, _, rest = name.partition("/")
        if number.isdecimal() and int(number) < len(self.folders) and "\0" not in rest:
            folder = self.folders[int(number)]
            path = (folder / rest).resolve()
            if path.is_relative_to(folder) and path.exists():
                return path
        raise HTTPException(404, f"{name} is in none of the folders of this page (any more)")

    def image(self, name: str) -> Path:
        """The image file of a name. Raises HTTPException 404 as `path` does, and BadImage for a file that is no usable image."""
        path = self.path(name)
        if not path.is_file():
            raise HTTPException(404, f"{name} is no file")
        image_size(path)
        return path

    def name(self, path: Path) -> str | None:
        """The name of a path; None if it lies in none of the folders."""
        path = path.resolve()
        for number, folder in enumerate(self.folders):
            if path.is_relative_to(folder):
                return f"{number}/{path.relative_to(folder).as_posix()}"
        return None
