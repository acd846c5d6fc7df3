"""What PyInstaller has to be told of this package; it finds this folder by the entry point ``pyinstaller40``.

Every module is found by itself, because each is imported by a statement. The page's template and the metadata that
tell the versions are files beside the code.
"""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folder of the hooks."""
    return [str(Path(__file__).parent)]
