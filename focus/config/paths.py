"""Where conf/ lies."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# In the package where it was installed, beside it in a checkout
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
