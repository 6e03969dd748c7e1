"""Where the settings files are."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Inside the package where it was installed, beside it in a checkout
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
