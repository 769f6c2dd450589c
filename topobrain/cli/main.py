"""The command line: ``topobrain VERB``. Every verb answers at once to --help, tells progress on standard error, and takes --json.

Exit codes: 0 done, 1 an error that is told, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import tyro

from topobrain._checks import TopobrainError
from topobrain.cli.alignment import Align, Components
from topobrain.cli.encoding import Encode
from topobrain.cli.integration import Integrate
from topobrain.cli.reports import Report, Reproduce
from topobrain.cli.selectivity import Localize, Topography
from topobrain.cli.stores import Data, Doctor, Models
from topobrain.cli.training import Train
from topobrain.cli.verbs import Extract

Command = (
    Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Extract, tyro.conf.subcommand("extract")]
    | Annotated[Localize, tyro.conf.subcommand("localize")]
    | Annotated[Topography, tyro.conf.subcommand("topography")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Align, tyro.conf.subcommand("align")]
    | Annotated[Components, tyro.conf.subcommand("components")]
    | Annotated[Integrate, tyro.conf.subcommand("integrate")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["--version"], ["-V"]):
        from topobrain import __version__

        print(f"topobrain {__version__}")
        return 0
    command: Any = tyro.cli(
        Command,
        prog="topobrain",
        description="Is this model organised like the brain? Selectivity maps, topography and encoding of brain responses.",
        args=given,
    )
    try:
        return int(command.run())
    except TopobrainError as error:
        if getattr(command, "as_json", False):
            print(json.dumps({"error": str(error), "kind": type(error).__name__}))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nstopped. Results and activations that were finished are kept: run the same command again.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
