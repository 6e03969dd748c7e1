"""HTML pages from the templates beside this file.

A page is one file that asks the network for nothing. It is whole without its script, which only
filters trajectories and reads curves out.
"""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from focus.runtime import files

TEMPLATES = Path(__file__).parent / "templates"
SMALL_PX = 256 * 256


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_html(path: Path, template: str, **content: Any) -> None:
    """Fill a template and write the page; an older page stays until the new one is whole. Every text is escaped."""
    style, script = (Markup((TEMPLATES / name).read_text()) for name in ("style.css", "page.js"))  # ours, and no text of HTML
    page = _environment().get_template(template).render(style=style, script=script, **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_on_first_rank(path, page.encode("utf-8", "xmlcharrefreplace").decode())  # half of a surrogate pair is no UTF-8


def data_url(image: Image.Image) -> str:
    """A picture inside the page: a small one as PNG, because it is shown enlarged; else as JPEG."""
    out = io.BytesIO()
    kind = "png" if image.width * image.height <= SMALL_PX else "jpeg"
    image.convert("RGB").save(out, format=kind, quality=88, subsampling=0)
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode()
