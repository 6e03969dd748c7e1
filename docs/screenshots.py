"""The screenshots of the lightbox, look.webp and try.webp beside this file. They need Chromium, a run on pages and a probe of it:

    python -m focus.train --multirun experiment=pages seed=1 gap=fixed
    python -m focus.probe "policy.checkpoint='outputs/pages/gap=fixed,seed=1/policy'" data=pages views=[16] evaluation.samples=48
    python -m docs.screenshots "outputs/pages/gap=fixed,seed=1"

Pages are drawn by this repository alone. Scenes are drawn on photographs of others, so the room Try is shown without them.
"""

import argparse
import base64
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from focus.lightbox import ask, look
from tests.support.browser import Browser
from tests.support.lightbox import served

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1280, 1400  # of the window, in CSS pixels
LOADED = "document.images.length > 0 && [...document.images].every(image => image.complete)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run that was trained on pages")
    run = parser.parse_args().run
    rooms = [lambda places, _: look.router(places), lambda places, _: ask.router(places)]
    with tempfile.TemporaryDirectory() as profile, served([run], *rooms) as url, Browser(Path(profile)) as browser:
        shoot_look(browser, url)
        shoot_try(browser, url)


def shoot_look(browser: Browser, url: str) -> None:
    """The smallest crop whose answer is right, and wrong with noise and with a crop of another place."""

    def asked(kind: str, words: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{url}/api/look/{kind}?run=0/probe_pages&{words}") as answer:
            return json.load(answer)

    for row in asked("rows", "filter=right,with_crop,with_pictures&sort=smallest_box")["rows"]:
        right = {arm["arm"]: arm["right"] for arm in asked("trajectory", f"at={row['at']}")["arms"]}
        if (right["gt"], right["noise"], right["elsewhere"]) == (1.0, 0.0, 0.0):
            break
    else:
        raise ValueError("no question is right with its crop and wrong with another; give another run")
    browser.open(f"{url}/look?run=0/probe_pages&table=evaluation_16_tokens&filter=right,with_crop&at={row['at']}", WIDTH, HEIGHT)
    browser.wait("document.querySelectorAll('.deep svg.boxes rect').length > 0 && document.querySelectorAll('.arms').length > 0")
    browser.wait(LOADED)
    shoot(browser, HERE / "look.webp", "document.querySelector('.arms > div')")


def shoot_try(browser: Browser, url: str) -> None:
    """The first page that the policy reads right with its crop, and otherwise with noise."""
    text = "document.getElementById('{}').textContent"
    browser.open(f"{url}/try", WIDTH, HEIGHT)
    browser.wait("document.querySelectorAll('#strip button').length")
    browser.run("document.querySelectorAll('#strip button:not([data-key^=page])').forEach(button => button.remove())")
    for number in range(browser.run("document.querySelectorAll('#strip button').length")):
        browser.run(f"document.querySelectorAll('#strip button')[{number}].click()")
        browser.run(
            "document.getElementById('policy').value = '0/policy'; document.getElementById('policy').dispatchEvent(new Event('change'))"
        )
        browser.run("document.getElementById('ask').click()")
        browser.wait(f"!['–', 'answering …'].includes({text.format('without')})", 60)
        if browser.run(f"{text.format('own-note')} !== 'Right.'"):
            continue
        browser.press("n")
        browser.wait(f"!['–', 'answering …'].includes({text.format('swapped')})", 60)
        if browser.run("!!document.querySelector('#swapped-note.changed')"):
            break
    browser.wait(LOADED)
    shoot(browser, HERE / "try.webp", "document.querySelector('#turns')")


def shoot(browser: Browser, path: Path, last: str) -> None:
    """The page down to the end of the element `last`."""
    browser.run("document.activeElement.blur()")
    time.sleep(1)  # the tiles of the viewer fade in
    bottom = browser.run(f"Math.ceil({last}.getBoundingClientRect().bottom + scrollY + 16)")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom, "scale": 1}
    picture = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip, format="webp", quality=85)
    path.write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main()
