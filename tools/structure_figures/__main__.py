"""``python -m structure_figures``."""

from structure_figures.cli import main

if __name__ == "__main__":
    main()
