"""`python -m tunefleet_cli`: the same as the `tunefleet` script."""

from tunefleet_cli.main import main

if __name__ == "__main__":
    main()
