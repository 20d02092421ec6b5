"""`python -m arcpipe`."""

from arcpipe.cli import main

main()
