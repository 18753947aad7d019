"""The command `uzbench`, also `python -m harness`."""

from __future__ import annotations

import sys


def main() -> None:
    from harness.cli import run_command

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
