"""``python -m shardbuild.bench URL...``: how fast shards are read."""

import sys

from shardbuild.bench.shards import main
from shardbuild.errors import ShardbuildError

if __name__ == "__main__":
    try:
        main()
    except ShardbuildError as error:
        sys.exit(f"shardbuild.bench: {error}")
