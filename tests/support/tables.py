"""The intervals in the tables of a page, and those of a record, as the page writes them."""

import re


def numbers(record: object) -> list[str]:
    """Every interval of a record as the page writes it: with 0, 1, 2 or 3 decimals."""
    if isinstance(record, list) and len(record) == 3 and all(isinstance(value, float) for value in record):
        return [f"{record[0]:.{d}f} [{record[1]:.{d}f}, {record[2]:.{d}f}]" for d in range(4)]
    values = record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()
    return [text for value in values for text in numbers(value)]


def shown(page: str) -> list[str]:
    """The intervals in the rows of the tables under *Observed*."""
    rows = "\n".join(line for line in page.split("## Observed")[1].splitlines() if line.startswith("|"))
    return re.findall(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]", rows)
