"""The command line: ``topobrain VERB``."""

from topobrain.cli.main import main

__all__ = ["main"]
