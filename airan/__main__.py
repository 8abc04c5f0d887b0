"""`python -m airan`."""

from airan.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
