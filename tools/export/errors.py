"""The one error that is the user's to fix: a bad file, a bad key, an option that does not fit."""


class ExportError(Exception):
    """Carries one line, which the command line prints behind `export.py: error:`."""
