"""`python -m pdr_dspy`: the same as `pdr`."""

from __future__ import annotations

import sys

from pdr_dspy.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
