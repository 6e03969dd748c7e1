"""PDFs of a few lines, written by the tests themselves. PDFium brings the fonts that every PDF may name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

A4 = (595, 842)  # points


@dataclass(frozen=True)
class Text:
    """A text that begins at `x`, `y` (points from the lower left corner). `turn`: 0, 90, 180 or 270 degrees, to the left.

    `mode` 3 draws nothing: the text is in the layer alone.
    """

    text: str
    x: float
    y: float
    size: float = 12
    colour: tuple[float, float, float] = (0, 0, 0)
    turn: int = 0
    mode: int = 0


@dataclass(frozen=True)
class Box:
    """A filled box: left, bottom, width, height in points."""

    left: float
    bottom: float
    width: float
    height: float
    colour: tuple[float, float, float]


Item = Text | Box


def write_pdf(
    path: Path,
    *pages: Sequence[Item],
    rotate: int = 0,
    unicode: Mapping[str, str] | None = None,
    size: tuple[int, int] = A4,
    password: bool = False,
    advance: int = 0,
) -> Path:
    """A PDF with these pages. `unicode` maps letters of the file to what its text layer says they are (`A` to a ligature).

    `advance` above 0: all letters are that wide, in thousandths of the size.
    """
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", _font(bool(unicode), advance), _unicode(unicode or {})]
    kids = []
    for page in pages:
        content = "\n".join(map(_drawn, page))
        kids.append(len(objects) + 1)
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] /Rotate {rotate} "
            f"/Resources << /Font << /F 3 0 R >> >> /Contents {len(objects) + 2} 0 R >>",
            _stream(content),
        ]
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>"
    # No key fits these: every reader is asked for a password
    locked = f" /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'00' * 32}> /U <{'11' * 32}> >> /ID [<00> <00>]" if password else ""
    data, starts = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        starts.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size {len(objects) + 1} /Root 1 0 R{locked} >>\n"
    path.write_bytes(data + head.encode() + f"startxref\n{len(data)}\n%%EOF\n".encode())
    return path


def lines(*texts: str, top: float = 760, left: float = 72, size: float = 12, leading: float = 16) -> list[Item]:
    """Texts one under the other."""
    return [Text(text, left, top - leading * number, size) for number, text in enumerate(texts)]


def _font(mapped: bool, advance: int) -> str:
    widths = f" /FirstChar 32 /LastChar 126 /Widths [{' '.join([str(advance)] * 95)}]" if advance else ""
    return (
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding{widths}{' /ToUnicode 4 0 R' if mapped else ''} >>"
    )


def _unicode(mapping: Mapping[str, str]) -> str:
    pairs = "\n".join(f"<{ord(letter):02x}> <{meant.encode('utf-16-be').hex()}>" for letter, meant in mapping.items())
    return _stream(
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /M def\n"
        f"1 begincodespacerange <00> <ff> endcodespacerange {len(mapping)} beginbfchar\n{pairs}\nendbfchar\nendcmap end end"
    )


def _stream(content: str) -> str:
    return f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"


def _drawn(item: Item) -> str:
    colour = " ".join(map(str, item.colour))
    if isinstance(item, Box):
        return f"{colour} rg {item.left} {item.bottom} {item.width} {item.height} re f"
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[item.turn]
    text = item.text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return f"BT {colour} rg {item.mode} Tr /F {item.size} Tf {a} {b} {c} {d} {item.x} {item.y} Tm ({text}) Tj ET"
