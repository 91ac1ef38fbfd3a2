"""Experiments, which ``python -m experiments`` lists."""

import signal
import sys

# While ``python -m`` imports a page, Ctrl-C ends the process without a traceback; ``main`` then
# handles it.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
