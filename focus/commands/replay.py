"""Repeat an update whose loss or gradient was not finite: `python -m focus.replay FOLDER`."""

import sys
from pathlib import Path


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("focus: python -m focus.replay FOLDER [POLICY]; FOLDER is what a run named when its loss or gradient was not finite")
    from focus.runs import replay

    try:
        replay.run(Path(sys.argv[1]), *sys.argv[2:])
    except ValueError as error:
        sys.exit(f"focus: {error}")


if __name__ == "__main__":
    main()
