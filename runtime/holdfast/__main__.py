"""Say how to get the command; this distribution has none of its own."""

import sys

MESSAGE = "holdfast is a library. Its command line comes with: pip install 'holdfast[cli]'"


def main() -> int:
    """Print where the command is; always an error, so that scripts notice."""
    sys.stderr.write(f"{MESSAGE}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
