"""Command-line arguments, for the server and its subcommands."""

import argparse
import sys

#: The exit status if what was asked for makes no sense.
USAGE = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the rest of the command line does."""

    def error(self, message):
        print(f"zeolite: {message}; see {self.prog} -h", file=sys.stderr)
        sys.exit(USAGE)
