"""The ``perception`` command. A subcommand is one module here, imported only when it is called.

Each offers ``HELP: str``, ``add_arguments(parser)`` and ``run(args) -> int`` and imports what is heavy inside ``run``.
Exit codes: 0 done, 1 a run, file or checkpoint failed, 2 the config or the usage is wrong, 130 interrupted, 143 ended
by SIGTERM after its state was saved.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from perception.errors import ConfigError, PerceptionError, nearest

# One line each, stated here so that the overview imports nothing.
COMMANDS = {
    "train": "pre-train or fine-tune from a config, one seed or several",
    "eval": "test a fine-tuned run",
    "probe": "judge a frozen backbone with the protocols of its config",
    "embed": "write the embeddings of a data set",
    "export": "make a stand-alone backbone out of a run",
    "validate": "report every fault of a config; --dry-run also sizes it and runs one batch",
    "list": "show configs and everything that a config can name",
    "report": "make a table out of run folders",
    "demo": "train and judge one backbone a modality on embedded data in minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process) and return the exit code."""
    # Not list(...): once the command of that name is imported, it is a module of this package.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        return _dispatch(arguments)
    except PerceptionError as error:
        if debug:
            raise
        return _say(_message(error), 2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:  # the reader of our output has gone, as with `perception list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        return _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except KeyboardInterrupt:
        if debug:
            raise
        return _say("interrupted", 130)


def _dispatch(arguments: list[str]) -> int:
    overview = _overview()
    if not arguments:
        overview.print_help()
        return 2
    name, *rest = arguments
    if name.startswith("-"):
        overview.parse_args(arguments)  # --help and --version exit; anything else is a usage error
        return 2
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        tail = f" Did you mean {' or '.join(map(repr, hint))}?" if hint else f" There are {', '.join(COMMANDS)}."
        raise ConfigError(f"no command {name!r}.{tail}")
    if not sys.warnoptions:
        # Third parties tell each other what to change, several screens of it; -W default shows it.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="Sparse (invariant checks|CSR tensor support)")
    module = import_module(f"perception.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"perception {name}", description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    # --debug is taken out before; it is declared for the help.
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return int(module.run(parser.parse_args(rest)))


def _overview() -> argparse.ArgumentParser:
    import perception

    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="perception",
        usage="perception COMMAND [...]",
        description="Self-supervised pre-training, fine-tuning and evaluation of backbones from one config.",
        epilog=f"commands:\n{lines}\n\n'perception COMMAND --help' explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"perception {perception.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _message(error: PerceptionError) -> str:
    """The message alone, also of an error that came out of a data loader's worker with its traceback as text."""
    text = str(error)
    if "Original Traceback (most recent call last)" in text:
        mark = f"{type(error).__name__}: "
        text = text.rsplit(mark, 1)[-1].strip()
    return text


def _say(message: str, code: int) -> int:
    print(f"perception: {message}", file=sys.stderr)
    return code
