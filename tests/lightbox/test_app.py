"""What the page answers, to whom, and which files it reads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.lightbox.app import PAGES
from tests.support.lightbox import client_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A given folder `in` with an image of 600 x 300 px, red on the left and blue on the right; beside it a file that is not given."""
    root = tmp_path_factory.mktemp("root")
    (root / "in").mkdir()
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:, :300, 0] = pixels[:, 300:, 2] = 255
    Image.fromarray(pixels).save(root / "in/picture.png")
    Image.fromarray(pixels).save(root / "outside.png")
    (root / "in/link.png").symlink_to(root / "outside.png")
    (root / "in/empty.png").write_bytes(b"")
    return root / "in"


@pytest.fixture(scope="module")
def page(folder):
    return client_of([folder])


def centre(content: bytes, tmp_path: Path) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Size of an image, and the colour of its middle rounded to multiples of 51."""
    (tmp_path / "tile").write_bytes(content)
    with Image.open(tmp_path / "tile") as tile:
        colour = tile.getpixel((tile.width // 2, tile.height // 2))
        return tile.size, tuple(round(value / 51) * 51 for value in colour)


@pytest.mark.parametrize("name", PAGES)
def test_every_room_is_a_page_whose_script_and_style_come_from_this_server_alone(page, name):
    answer = page.get(f"/{name}")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "unsafe-inline" not in policy
    assert page.get(f"/web/{name}.js").status_code == page.get(f"/web/{name}.css").status_code == 200
    assert "<script>" not in answer.text and "http" not in answer.text


def test_an_image_is_cut_into_tiles_that_overlap_by_one_pixel(page, tmp_path):
    source = page.get("/zoom/0/picture.png").json()["Image"]
    assert (source["Size"], source["TileSize"], source["Overlap"]) == ({"Width": 600, "Height": 300}, 256, 1)
    level = 10  # 2 ** 10 is the first power of two that holds 600, so level 10 is the image itself
    assert centre(page.get(f"{source['Url']}{level}/0_0.jpg").content, tmp_path) == ((257, 257), (255, 0, 0))
    assert centre(page.get(f"{source['Url']}{level}/2_1.jpg").content, tmp_path) == ((600 - 511, 300 - 255), (0, 0, 255))
    assert centre(page.get(f"{source['Url']}{level - 1}/1_0.jpg").content, tmp_path) == ((300 - 255, 150), (0, 0, 255))
    assert page.get(f"{source['Url']}0/0_0.jpg").status_code == 200
    for outside in ("10/3_0", "10/-1_0", "11/0_0", "-1/0_0"):
        assert page.get(f"{source['Url']}{outside}.jpg").status_code == 404


def test_an_address_without_a_page_is_a_page_in_a_browser_and_a_sentence_for_a_script(page):
    for address in ("/nowhere", "/a/b", "/api/nowhere"):
        seen = page.get(address, headers={"Accept": "text/html,*/*"})
        assert (seen.status_code, seen.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "There is no page at this address." in seen.text
        assert page.get(address).json()["detail"]
    assert page.get("/nowhere").json() == {"detail": f"there is no page nowhere; there are {', '.join(PAGES)}"}
    assert page.get("/web/icon.svg").headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "name",
    ["0/../outside.png", "0/%2e%2e/outside.png", "0//etc/passwd", "1/picture.png", "-1/picture.png", "0/link.png", "0/no.png", "0/a%00b"],
)
def test_no_name_leads_out_of_the_given_folders(page, name):
    for kind in ("images", "zoom"):
        assert page.get(f"/{kind}/{name}").status_code == 404


def test_a_file_that_is_no_image_gives_a_sentence(page):
    answer = page.get("/zoom/0/empty.png")
    assert answer.status_code == 422 and "it has no bytes" in answer.json()["detail"]


def test_a_site_that_points_its_own_name_to_this_machine_reads_nothing(folder):
    assert client_of([folder], base_url="http://evil.example:8899").get("/look").status_code == 421
    assert client_of([folder], base_url="http://localhost:8899").get("/look").status_code == 200


def test_a_page_of_another_site_changes_nothing(page):
    assert page.post("/api/look/runs", headers={"Origin": "http://evil.example"}).status_code == 403
    assert page.post("/api/look/runs", headers={"Origin": "http://127.0.0.1:8899"}).status_code != 403


def test_with_a_token_the_first_address_sets_a_cookie_and_nothing_is_answered_without_it(folder):
    page = client_of([folder], token="secret", base_url="http://node7:8899")
    assert page.get("/images/0/picture.png").status_code == 401
    assert page.get("/look?token=wrong").status_code == 401
    answer = page.get("/look?run=a&token=secret")
    assert (answer.status_code, answer.headers["location"]) == (303, "/look?run=a")
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=strict" in answer.headers["set-cookie"]
    assert page.get("/images/0/picture.png").status_code == 200


def test_a_script_that_is_not_installed_is_answered_with_what_to_run(page):
    assert "make env-lightbox" in page.get("/modules/nothing.js").json()["detail"]
    assert page.get("/modules/../app.py").status_code == page.get("/modules/%2e%2e/common.js").status_code == 404


@pytest.mark.processes
def test_the_command_has_the_name_of_the_room():
    answer = subprocess.run([sys.executable, "-m", "focus.lightbox", "port=0"], capture_output=True, text=True, timeout=600)
    assert answer.returncode == 1 and "port is 0; ports are 1 to 65535" in answer.stderr
