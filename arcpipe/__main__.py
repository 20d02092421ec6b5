"""`python -m arcpipe`, and the `arcpipe` command."""

import signal

if __name__ in ("__main__", "arcpipe.__main__") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until a command heeds it: Ctrl-C while modules load needs no words

from arcpipe.cli import main

if __name__ == "__main__":
    main()
