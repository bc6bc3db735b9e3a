"""An image, and beside it what is left of its patches: some dropped, some merged into groups.

(Groups as figures of ToMe have them, arXiv 2210.09461: of the mean colour of their pixels, within a border.)
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from io import BytesIO
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image

from ..pages.svg import add, markup, svg
from .patches import PatchPicture

GAP = 0.05  # between both, of the image's width
BORDER = 0.007  # of a group, of the image's width
COARSE = 96  # pixels across, below which an image is enlarged: then they are drawn as squares
TURN = 137.508  # degrees from one group's hue to the next: by the golden angle those of neighbours differ


def drawn_patches(picture: PatchPicture) -> Markup:
    """The image on the left, what became of its patches on the right; one patch is one unit wide."""
    rows, columns, aside = picture.rows, picture.columns, (1 + GAP) * picture.columns
    told = f"An image of {rows} by {columns} patches, and what became of them: {picture.line}"
    chart = svg(rows, told)
    chart.attrib |= {"class": "chart patches", "viewBox": f"0 0 {aside + columns:g} {rows}"}
    add(chart, "title", "", picture.line)
    content = _png(picture.image)
    name = f"image-{hashlib.sha256(content).hexdigest()[:16]}"
    add(
        chart, "image", "coarse" if picture.image.width < COARSE else "", id=name, width=f"{columns}",
        height=f"{rows}", preserveAspectRatio="none",
        href=f"data:image/png;base64,{b64encode(content).decode()}",
    )  # fmt: skip
    left = add(chart, "g", "", transform=f"translate({aside:g} 0)")
    add(left, "use", "", href=f"#{name}")
    _draw_dropped(left, picture)
    _draw_groups(left, picture)
    return markup(chart)


def _draw_dropped(left: ElementTree.Element, picture: PatchPicture) -> None:
    places = [divmod(patch, picture.columns) for patch in picture.dropped]
    add(left, "path", "veil", d="".join(f"M{x} {y}h1v1h-1z" for y, x in places))
    add(left, "path", "hatch", d="".join(f"M{x} {y + 0.5}l.5-.5m.5 0l-1 1m.5 0l.5-.5" for y, x in places))


def _draw_groups(left: ElementTree.Element, picture: PatchPicture) -> None:
    """Each group as a shape in the colour of its border, and a smaller one of its pixels' mean colour on that."""
    of_patches = picture.image.convert("RGB").resize((picture.columns, picture.rows), Image.Resampling.BOX)
    for index, patches in enumerate(picture.groups):
        group = add(left, "g", "")
        add(group, "title", "", f"{len(patches):,} patches in one token")
        places = [divmod(patch, picture.columns) for patch in patches]
        hue = f"hsl({index * TURN % 360:.0f} 85% 58%)"
        add(group, "path", "", d="".join(f"M{x} {y}h1v1h-1z" for y, x in places), fill=hue)
        colours = [of_patches.getpixel((x, y)) for y, x in places]
        mean = ",".join(f"{sum(channel) / len(places):.0f}" for channel in zip(*colours, strict=True))
        add(group, "path", "", d=_within_borders(set(places), BORDER * picture.columns), fill=f"rgb({mean})")


def _within_borders(places: set[tuple[int, int]], border: float) -> str:
    """The patches at these rows and columns, without a border on the sides where their neighbour is none of them."""
    path = []
    for y, x in sorted(places):
        left, right = (border * ((y, x + beside) not in places) for beside in (-1, 1))
        above, below = (border * ((y + beside, x) not in places) for beside in (-1, 1))
        path.append(
            f"M{x + left:.5g} {y + above:.5g}H{x + 1 - right:.5g}V{y + 1 - below:.5g}H{x + left:.5g}z"
        )
    return "".join(path)


def _png(image: Image.Image) -> bytes:
    content = BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()
