"""The command `uzbench`, also `python -m harness`."""

from __future__ import annotations

import sys
import traceback


def main() -> None:
    try:
        from harness.cli import run_command
    except ImportError:
        # A missing package would exit 1, which a gate says of a regression.
        if "gate" not in sys.argv[1:]:
            raise
        traceback.print_exc()
        sys.exit(3)
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
