"""What became of an image's patches, as a report draws it; nothing of what is damaged, and nothing but pixels."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from edgepress.pipeline.report.patch_drawing import drawn_patches
from edgepress.pipeline.report.patches import PATCHES, SIDE, patch_pictures
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.run_record import StepRecord
from html_page import Page
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from run_records import STEPS, run, step

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def base64_of(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    content = BytesIO()
    image.save(content, kind, **options)
    return b64encode(content.getvalue()).decode()


def colours(*rows: list[tuple[int, int, int]]) -> Image.Image:
    """An image of two by two pixels for each colour, a patch."""
    image = Image.new("RGB", (len(rows[0]), len(rows)))
    image.putdata([colour for row in rows for colour in row])
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


IMAGE = colours([WHITE, BLACK, RED], [WHITE, BLACK, BLACK])
PICTURE = {"image": base64_of(IMAGE), "rows": 2, "columns": 3, "patches": [1, 1, 0, -1, 1, -1]}
"""Three patches, in the form of an L, are one token; one stands alone; two were dropped."""


def told(*found: Any) -> StepRecord:
    schedule = {"schema_version": 1, "patches": 6, "blocks": [{"pruned": 4, "merged": 2}]}
    details = {"place": "blocks", "leading": 1, "schedule": schedule, "read": None, "pictures": list(found)}
    return step("tokens", 0.9, 1000, details={"tokens": details})


def drawn(**changes: Any) -> ElementTree.Element:
    [picture] = patch_pictures(told(PICTURE | changes))
    return ElementTree.fromstring(str(drawn_patches(picture)))


def shapes(chart: ElementTree.Element) -> dict[str, str]:
    """The shapes by what fills them, or their class."""
    return {
        path.get("fill") or path.get("class") or "": path.get("d") or ""
        for path in chart.iter()
        if path.tag == "path"
    }


@pytest.mark.parametrize(
    ("patches", "line"),
    [
        ([1, 1, 0, -1, 1, -1], "1 stands alone, 3 merged into 1 group, 2 dropped"),
        ([0, 1, 2, 3, 3, 2], "2 stand alone, 4 merged into 2 groups"),
        ([0, 1, 2, 3, -1, -1], "4 stand alone, 2 dropped"),
        ([-1] * 6, "6 dropped"),
    ],
)
def test_patches_are_counted_by_what_became_of_them(patches: list[int], line: str) -> None:
    [picture] = patch_pictures(told(PICTURE | {"patches": patches}))
    assert picture.line == line
    assert len(picture.dropped) + sum(map(len, picture.tokens)) == 6


def test_groups_have_the_mean_colour_of_their_pixels_and_borders_where_others_begin() -> None:
    chart = drawn()
    found = shapes(chart)
    assert found["veil"] == "M0 1h1v1h-1zM2 1h1v1h-1z"
    assert found["hatch"].count("M") == 2
    assert found["hsl(0 85% 58%)"] == "M0 0h1v1h-1zM1 0h1v1h-1zM1 1h1v1h-1z"
    border = 0.021  # of three patches' width
    inner = found["rgb(85,85,85)"]  # of one white patch and two black ones
    corners = [[float(number) for number in re.findall(r"[\d.]+", each)] for each in inner.split("z")[:-1]]
    assert corners == [
        pytest.approx([border, border, 1, 1 - border, border]),
        pytest.approx([1, border, 2 - border, 1, 1]),
        pytest.approx([1 + border, 1, 2 - border, 2 - border, 1 + border]),
    ]
    assert len(found) == 4  # what stands alone is the image itself


def test_a_drawing_says_what_it_shows() -> None:
    chart = drawn()
    assert chart.get("role") == "img"
    line = "1 stands alone, 3 merged into 1 group, 2 dropped"
    assert chart.get("aria-label") == f"An image of 2 by 3 patches, and what became of them: {line}"
    assert [title.text for title in chart.iter("title")] == [line, "3 patches in one token"]


def test_the_image_is_drawn_twice_and_held_once() -> None:
    chart = drawn()
    [image], [use] = chart.findall("image"), list(chart.iter("use"))
    assert use.get("href") == f"#{image.get('id')}"
    kind, _, content = (image.get("href") or "").partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(BytesIO(b64decode(content))) as shown:
        assert list(shown.tobytes()) == list(IMAGE.tobytes())


def test_nothing_but_the_pixels_reaches_a_page() -> None:
    info = PngInfo()
    info.add_text("comment", "<script>alert(1)</script>")
    text = base64_of(IMAGE, pnginfo=info, icc_profile=b"profile" * 9)
    assert len(text) > len(PICTURE["image"]) + 90
    trailing = b64encode(b64decode(text) + b"<script>").decode()
    plain = ElementTree.tostring(drawn())
    assert ElementTree.tostring(drawn(image=text)) == ElementTree.tostring(drawn(image=trailing)) == plain


GREY = Image.new("L", (6, 4), 90)
ODD: dict[str, Any] = {
    "no mapping": 7,
    "empty": {},
    "no rows": PICTURE | {"rows": None},
    "rows that are a text": PICTURE | {"rows": "2"},
    "rows that are true": PICTURE | {"rows": True, "patches": [0, 0, 0]},
    "half a row": PICTURE | {"rows": 1.5, "columns": 4},
    "negative rows": PICTURE | {"rows": -2, "columns": -3},
    "another count": PICTURE | {"patches": [0, 0, 0]},
    "no patches at all": PICTURE | {"rows": 0, "patches": []},
    "patches that are a text": PICTURE | {"patches": "110-1-"},
    "a patch that is a text": PICTURE | {"patches": [1, 1, 0, -1, 1, "<script>"]},
    "a patch that is endless": PICTURE | {"patches": [1, 1, 0, -1, 1, float("inf")]},
    "a patch below all": PICTURE | {"patches": [1, 1, 0, -1, 1, -2]},
    "too many patches": PICTURE | {"rows": 1, "columns": PATCHES + 1, "patches": [0] * (PATCHES + 1)},
    "no image": PICTURE | {"image": None},
    "no base64": PICTURE | {"image": PICTURE["image"][:-2] + '">'},
    "letters of another script": PICTURE | {"image": "é" * 40},
    "no PNG": PICTURE | {"image": base64_of(IMAGE, "GIF")},
    "an SVG": PICTURE | {"image": b64encode(b"<svg onload='alert(1)'/>").decode()},
    "a signature alone": PICTURE | {"image": b64encode(b"\x89PNG\r\n\x1a\n").decode()},
    "half a PNG": PICTURE | {"image": b64encode(b64decode(PICTURE["image"])[:-30]).decode()},
    "a palette": PICTURE | {"image": base64_of(IMAGE.convert("P"))},
    "too many pixels": PICTURE | {"image": base64_of(GREY.resize((SIDE + 1, 2)))},
    "too many characters": PICTURE | {"image": "A" * (1 << 20)},
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_picture_is_left_out(name: str) -> None:
    assert len(patch_pictures(told(PICTURE, ODD[name], PICTURE))) == 2


@pytest.mark.parametrize("details", [{}, {"tokens": 3}, {"tokens": {}}, {"tokens": {"pictures": 7}}])
def test_details_without_pictures_have_none(details: dict[str, Any]) -> None:
    assert patch_pictures(step("tokens", 0.9, 1000, details=details)) == []


def test_the_page_shows_a_few_and_fetches_nothing(tmp_path: Path) -> None:
    grey = PICTURE | {"image": base64_of(GREY)}
    write_reports(run(steps=[STEPS[0], told(*([PICTURE] * 3), *([grey] * 40))]), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "What is left of 32 images of the validation part" in page.text
    assert page.text.count("3 merged into 1 group") == 2 * 32  # a caption and a title
    found = [attributes for tag, attributes in page.tags if tag in ("image", "use")]
    assert len(found) == 64
    for attributes in found:
        assert (attributes["href"] or "").startswith(("data:image/png;base64,", "#image-"))
    assert {tag for tag, attributes in page.tags if "href" in attributes} == {"image", "use"}
    [policy] = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_page_without_pictures_says_nothing_of_them(tmp_path: Path) -> None:
    write_reports(run(steps=[STEPS[0], told()]), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Tokens: tokens" in page and "of the validation part</h4>" not in page and "<image" not in page
