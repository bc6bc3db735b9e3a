"""A page as a test reads it: its tags, and the text that a reader sees."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of style sheets."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._open != "style":
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    @property
    def text(self) -> str:
        """The words as they run on, each space once."""
        return " ".join("".join(self.words).split())

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        """The tags, and which attributes each has: what no name in a record may change."""
        return [(tag, sorted(attributes)) for tag, attributes in self.tags]

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for name, attributes in self.tags if name == tag]
