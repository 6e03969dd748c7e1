"""Text that every file, page and request of UTF-8 can hold."""


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for every half of a surrogate pair, which no request, page or file of UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
