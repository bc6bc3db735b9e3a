"""The command `compress`: what goes wrong becomes one message and one exit code here, and nowhere else."""

from __future__ import annotations

import errno
import tempfile
import traceback
import unicodedata
from pathlib import Path

import click

from ..errors import CompressError, ExitCode, cause
from ..text import tidy
from ..version import __version__
from ..writing import ALMOST, NO_SPACE, free, is_full
from .devices import devices
from .gate import gate
from .history import history
from .inspect import inspect, lint
from .listing import doctor, passes, targets
from .output import debug_option, debugging
from .pack import pack, unpack
from .profile import profile
from .report import report
from .run import demo, init, run
from .tabulate import tabulate

_USERS_OWN = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOTDIR,
        errno.EISDIR, errno.EEXIST, errno.ENOENT,
    }
)  # fmt: skip
"""What the file system says of a path that the user named, or of a full disk: no fault of this program."""


class Commands(click.Group):
    """Runs a command and turns its outcome into an exit code; click itself answers wrong usage, with 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what no record, report or terminal could show, before any command looks at it."""
        for argument in args:
            if any(
                unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in argument
            ):  # Cs: bytes, no UTF-8
                ctx.fail(
                    f"{argument[:200]!r} holds characters that are not UTF-8 text, or control characters such as a"
                    " newline: rename the file or folder, or choose another name"
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command that was named; the number it returns is the exit code."""
        try:
            code = super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            vars(error)["message"] = tidy(error.message)  # an argument may be a file's name
            raise
        except CompressError as error:
            code = _fail(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            code = _fail(_interrupted(ctx.invoked_subcommand), ExitCode.INTERRUPTED)
        except Exception as error:
            code = self._unexpected(ctx, error)
        ctx.exit(int(code or 0))

    def _unexpected(self, ctx: click.Context, error: Exception) -> ExitCode:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise error  # the reader of a pipe went away: click ends quietly
        if isinstance(error, OSError) and error.errno in _USERS_OWN and error.filename is not None:
            return _fail(f"error: {error.filename}: {error.strerror}", ExitCode.USAGE_ERROR)
        if is_full(error):
            return _fail(f"error: {_full_places()}: {NO_SPACE}", ExitCode.USAGE_ERROR)
        if isinstance(error, OSError) and error.errno in _USERS_OWN:
            return _fail(f"error: {error.strerror}", ExitCode.USAGE_ERROR)
        if debugging(ctx):
            traceback.print_exception(error)
        what = f"{type(error).__name__}: {cause(error)}"
        return _fail(f"internal error: {what}, please report", ExitCode.INTERNAL_ERROR)


def _full_places() -> str:
    """Where there is no room, when the error does not tell: the folder for temporary files, or this one."""
    places = dict.fromkeys((Path(tempfile.gettempdir()), Path.cwd()))
    full = [place for place in places if free(place) < ALMOST]
    return " and ".join(map(str, full)) or " or ".join(map(str, places))


def _interrupted(command: str | None) -> str:
    keeps = "; finished steps are kept, continue with --resume" if command in (run.name, demo.name) else ""
    return f"interrupted{keeps}"


def _fail(message: str, code: ExitCode) -> ExitCode:
    click.echo(tidy(message), err=True)
    return code


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 pass, 1 internal error, 2 wrong usage or recipe, 3 a budget or a gate failed, or "
    "lint found something, 4 no device could run the model, or a gate could not tell, 5 a device is not here, "
    "6 an unsafe file was refused, 130 interrupted.",
)
@click.version_option(__version__, prog_name="compress")
@debug_option
def cli() -> None:
    """Trained vision networks onto edge devices, inside a budget, proven on the real runtime.

    \b
    Example:
      compress init recipe.yaml
      compress run recipe.yaml
    """


for _command in (
    init, run, demo, inspect, profile, tabulate, gate, devices, history, report, lint, pack, unpack, doctor, passes,
    targets,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """The console script."""
    cli(prog_name="compress")
