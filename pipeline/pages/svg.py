"""Inline SVG for pages. Every text goes through ElementTree, which escapes it; colours are CSS classes of the page."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

from ...text import short

TEXT_LIMIT = 400  # characters of a text in a picture


def svg(height: float, label: str) -> ElementTree.Element:
    """An image as wide as its place; `label` is what a screen reader says."""
    element = ElementTree.Element(
        "svg", {"class": "chart", "role": "img", "aria-label": short(label, TEXT_LIMIT)}
    )
    element.attrib |= {"width": "100%", "height": f"{height:g}"}
    return element


def add(
    parent: ElementTree.Element, tag: str, css: str, text: str = "", **attributes: str
) -> ElementTree.Element:
    """Put an element into another one."""
    child = ElementTree.SubElement(parent, tag, {"class": css, **attributes} if css else attributes)
    child.text = short(text, TEXT_LIMIT) or None
    return child


def markup(element: ElementTree.Element) -> Markup:
    """The image as a template takes it."""
    return Markup(ElementTree.tostring(element, encoding="unicode"))
