"""``python -m faults``."""

from faults.cli import main

if __name__ == "__main__":
    main()
