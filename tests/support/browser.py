"""A headless Chromium, spoken to through its debugging pipe: messages of JSON that end in a zero byte."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)")


class Browser:
    """One page of one browser. Use it as a context manager."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        theirs_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write))  # neither is 3 or 4
        words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        # The browser reads from descriptor 3 and writes to 4
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read, write, theirs_in, theirs_out):
            os.close(end)
        self._read, self._number, self._session = b"", 0, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")
        self.ask("Runtime.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        sent = {"id": self._number, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(sent).encode() + b"\0")
        while (message := self._message()).get("id") != self._number:
            pass
        assert "error" not in message, message
        return message["result"]

    def open(self, page: Path | str, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Load a page, from disk or by its address, in a window of this size, in CSS pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> Any:
        """The value of an expression as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never became true: {script}"
            time.sleep(0.05)
        return value

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                text = ("\r" if key == "Enter" else key if len(key) == 1 else "") if kind == "keyDown" else ""
                self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=text, modifiers=8 * shift)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the pointer at the first point, in CSS pixels of the window, move it over the others, and lift it."""
        button = {"button": "left", "clickCount": 1}
        (x, y), (last_x, last_y) = points[0], points[-1]
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        for x, y in points[1:]:
            self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, buttons=1, **button)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=last_x, y=last_y, **button)

    def give(self, selector: str, file: Path) -> None:
        """Choose a file in an input of the page."""
        node = self.ask("DOM.querySelector", nodeId=self.ask("DOM.getDocument")["root"]["nodeId"], selector=selector)
        self.ask("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])

    def hover(self, x: float, y: float) -> None:
        """Move the pointer, in CSS pixels of the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))
