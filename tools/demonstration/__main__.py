"""`python -m demonstration`: the same as `tools/demo`."""

from demonstration.cli import main

main()
