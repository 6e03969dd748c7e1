"""HTML pages from the templates beside this file. A page is one file that asks the network for nothing and has no script."""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from focus.runtime import files

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_html(path: Path, template: str, **content: Any) -> None:
    """Fill a template and write the page; an older page stays until the new one is whole. Every text is escaped."""
    style = (TEMPLATES / "style.css").read_text()
    page = _environment().get_template(template).render(style=style, **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_on_first_rank(path, page.encode("utf-8", "xmlcharrefreplace").decode())  # half of a surrogate pair is no UTF-8


def data_url(image: Image.Image) -> str:
    """A picture inside the page, as JPEG."""
    out = io.BytesIO()
    image.convert("RGB").save(out, format="JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
