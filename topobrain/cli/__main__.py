"""``python -m topobrain.cli`` is ``topobrain``: what torchrun starts."""

import sys

from topobrain.cli.main import main

sys.exit(main())
