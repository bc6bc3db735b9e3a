"""Messages of libraries keep their reason."""

from __future__ import annotations

from edgepress.errors import CAUSE_LIMIT, cause

OPENVINO = """Exception from src/inference/src/cpp/core.cpp:93:
Exception from src/inference/src/dev/plugin.cpp:53:
Check 'pad_mode' failed at src/frontends/onnx/op/pad.cpp:37:
While validating ONNX node '<Node(Pad): pad>':
Unsupported padding mode: [wrap]

"""


def test_lines_that_name_source_files_go_and_the_reason_stays() -> None:
    assert cause(RuntimeError(OPENVINO)) == (
        "While validating ONNX node '<Node(Pad): pad>': Unsupported padding mode: [wrap]"
    )


def test_of_a_long_message_the_ends_stay() -> None:
    told = cause(RuntimeError("while reading the model " + "x" * 9000 + " no such operator: Foo"))
    assert len(told) <= CAUSE_LIMIT
    assert told.startswith("while reading the model") and told.endswith("no such operator: Foo")


def test_without_a_message_the_type_is_told() -> None:
    assert cause(KeyError()) == "KeyError"
    assert cause("Exception from a.cpp:1:") == "Exception from a.cpp:1:"


def test_terminal_escapes_of_a_library_are_shown_and_do_not_act() -> None:
    assert "\x1b" not in cause(RuntimeError("\x1b[31mred"))
