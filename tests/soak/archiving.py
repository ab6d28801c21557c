"""`fairlog archive`, except that the part of the log which always stays is short.

`python -m tests.soak.archiving SECONDS ARGUMENT…`: the command itself keeps the last four days of a
log, in which a soak would have nothing to archive.
"""

import sys

from entrypoints.cli import main
from entrypoints.use_cases import archive_cuts

if __name__ == "__main__":
    archive_cuts.LOG_KEPT_SECONDS = int(sys.argv[1])  # type: ignore[attr-defined]  # it is imported there
    sys.argv = ["fairlog", "archive", *sys.argv[2:]]
    main()
