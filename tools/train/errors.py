"""The one error that ends a run with a line on stderr instead of a traceback."""


class TrainError(Exception):
    """Something that the user has to change: a file, a folder, an option."""
