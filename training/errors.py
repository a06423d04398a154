"""What may be wrong with a data set. Apart from `data.py`, so that catching it doesn't take TensorFlow."""


class DatasetError(Exception):
    """A data set that can't be used: says what is wrong and what to do about it."""


class DatasetUnreachable(DatasetError):
    """A data set that may be fine, but the network doesn't bring it."""
