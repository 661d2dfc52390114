"""`python -m clickstream_server` is the program `clickstream`."""

from __future__ import annotations

import sys

from clickstream_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
