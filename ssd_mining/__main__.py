"""``python -m ssd_mining``: the command line."""

import sys

from ssd_mining.cli import main

sys.exit(main())
