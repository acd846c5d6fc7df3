"""``python -m ssd_mining``: the command line."""

import sys

from ssd_mining.cli.entry import main

sys.exit(main())
