"""The one error that keeps the oracle from running at all: no binary, no such file, an input it cannot feed."""


class OracleError(Exception):
    """Carries one line, which the command line prints behind the program's name."""
