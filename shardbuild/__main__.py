"""``python -m shardbuild`` is the command ``shardbuild``."""

from __future__ import annotations

import sys

from shardbuild.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
