"""Text out of files, records and lines: what could mislead a reader is made visible, and nothing is endless."""

from __future__ import annotations

import json
import time
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.cli.output import console, print_json, say, table
from edgepress.progress import PlainLines
from edgepress.text import TEXT_LIMIT, one_line, short, tidy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "layer.0/conv",
        "naïve Schräge",
        "模型.onnx",
        "e\u0301",
        "two\nlines\tand a tab",
        "[bold]x[/] <b> | `x`",
    ],
    ids=[
        "empty",
        "name",
        "accents",
        "ideographs",
        "combining mark",
        "breaks and tabs stay",
        "markup is text",
    ],
)
def test_what_must_be_left_alone(text: str) -> None:
    assert tidy(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "<U+001B>[2J"),
        ("\x1b]0;title\x07", "<U+001B>]0;title<U+0007>"),
        ("\x9b2J", "<U+009B>2J"),
        ("a\rb", "a<U+000D>b"),
        ("\x7f\x00", "<U+007F><U+0000>"),
        ("\u202egnp.exe", "<U+202E>gnp.exe"),
        ("\u2066x\u2069", "<U+2066>x<U+2069>"),
        ("a\u200bb\ufeff", "a<U+200B>b<U+FEFF>"),
        ("a\u2028b", "a<U+2028>b"),
        ("\u3164\u034f", "<U+3164><U+034F>"),
        ("\ud800", "<U+D800>"),
        ("\uffff", "<U+FFFF>"),
        ("\U000e0041", "<U+E0041>"),
        ("\ue000", "<U+E000>"),
        ("e" + 6 * "\u0301", "e" + 4 * "\u0301" + 2 * "<U+0301>"),
    ],
    ids=[
        "escape", "title of a terminal", "C1", "carriage return", "delete and nul", "override", "isolate", "no width",
        "line separator", "blank letters", "lone surrogate", "no character", "tag", "private use", "pile of marks",
    ],
)  # fmt: skip
def test_what_misleads_is_made_visible(text: str, shown: str) -> None:
    assert tidy(text) == shown
    root = ElementTree.Element("case", name=tidy(text))
    assert ElementTree.fromstring(ElementTree.tostring(root)).get("name") == shown


def test_a_line_is_one_line_and_keeps_its_spaces() -> None:
    assert one_line("  a  b\r\n\n  PASS\tx") == "  a  b PASS x"
    assert short("a\n  b") == "a b"


@pytest.mark.parametrize("text", ["x" * 5_000_000, " " * 5_000_000, "\x1b" * 5_000_000, "\n" * 5_000_000])
def test_five_megabytes_are_cut_at_once(text: str) -> None:
    started = time.monotonic()
    assert len(short(text)) <= 90
    assert len(one_line(text, 100)) < 150
    assert len(tidy(text)) < TEXT_LIMIT + 50
    assert time.monotonic() - started < 2


def test_a_cut_text_says_how_much_is_missing() -> None:
    assert tidy("abcdef", 4) == "abcd … (2 characters left out)"


def test_what_the_commands_print_goes_through_it(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202ename\nPASS"
    say(evil)
    console().print(table(("name",), [(evil,)]))
    PlainLines().say(evil)
    print_json({"name": evil})
    told = capsys.readouterr()
    for stream in (told.out, told.err):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(stream)
    assert "\nPASS" not in told.out + told.err
    assert json.loads(told.out[told.out.index("{") :]) == {"name": evil}


def test_an_argument_in_a_message_of_wrong_usage() -> None:
    done = CliRunner().invoke(cli, ["doctor", "\x1b[2J"])
    assert done.exit_code == 2
    assert "\x1b" not in done.output


def test_a_table_of_endless_names_is_laid_out(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    console().print(table(("node", "problem"), [("n" * 5_000_000, "p" * 5_000_000)] * 3))
    assert time.monotonic() - started < 5
    assert "characters left out" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
