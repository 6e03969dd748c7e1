"""Images as PNG in data URLs, the form in which a server gets them."""

import base64
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image

LIMIT = 2**30  # bytes: about 700 crops of 1,024 tokens


@dataclass
class _Encoded:
    image: Image.Image  # kept, so that its id is not reused
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class DataURLs:
    """Encodes each image once, also when threads ask for it at the same time.

    The key is the identity of the image: siblings and the arms of a question share one view, and the turns
    of a conversation its crops. URLs that were not asked for longest are dropped above `limit` bytes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._bytes = limit, 0
        self._lock = threading.Lock()
        self._encoded: OrderedDict[int, _Encoded] = OrderedDict()  # by id(image), the one asked for last at the end
        self._asked = set[int]()  # since `forget`

    def of(self, image: Image.Image) -> str:
        """The URL of an image."""
        with self._lock:
            entry = self._encoded.setdefault(id(image), _Encoded(image))
            self._encoded.move_to_end(id(image))
            self._asked.add(id(image))
        with entry.lock:
            if not entry.url:
                entry.url = data_url(image)
                self._keep(entry)
        return entry.url

    def forget(self) -> None:
        """Drop the URLs that were not asked for since the last call."""
        with self._lock:
            for key in self._encoded.keys() - self._asked:
                self._bytes -= len(self._encoded.pop(key).url)
            self._asked.clear()

    def _keep(self, new: _Encoded) -> None:
        """Count a new URL, and drop old ones until the others are within the limit."""
        with self._lock:
            if self._encoded.get(id(new.image)) is not new:
                return  # dropped before it was encoded
            self._bytes += len(new.url)
            while self._bytes > self._limit:
                _, old = self._encoded.popitem(last=False)
                self._bytes -= len(old.url)


def data_url(image: Image.Image) -> str:
    """An image as PNG in a data URL."""
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
