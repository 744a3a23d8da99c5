"""Facts about operations that stages of the library ask for, beside what a rule says of labels."""

from __future__ import annotations

from enum import Enum, auto


class Trait(Enum):
    """One fact about an operation. ``x`` is its first argument.

    Some facts are finer than one stage needs, because another stage has to tell them apart: ``roll`` moves entries
    too, but along a dimension, so it is ``SHIFTS`` and not ``MOVES``.
    """

    __hash__ = object.__hash__  # traits are looked up at every step of a program, and Enum's own hash is slow

    # ------------------------------------------------------------ arithmetic of the first two arguments
    ADDS = auto()
    """Adds the second argument (times ``alpha``) to ``x``, entry by entry."""
    SUBTRACTS = auto()
    """Subtracts the second argument from ``x``, entry by entry."""
    SCALES = auto()
    """Multiplies ``x`` with the second argument, entry by entry."""
    DIVIDES = auto()
    """Divides ``x`` by the second argument, entry by entry."""
    BATCHED_PRODUCT = auto()
    """Multiplies two stacks of matrices, neither of which need be a weight. Its first matmul view says which."""

    COMPARES = auto()
    """Adds up how far ``x`` and the second argument are apart, entry by entry."""
    ENTRYWISE = auto()
    """Every entry of the result is a function of the entries at its place, though torch does not say so."""
    MASKS = auto()
    """Takes the entries of one tensor where a mask, another argument, says so, and other numbers elsewhere."""
    POWERS = auto()
    """A power of entries, such as their square root."""
    GATES = auto()
    """Maps all numbers to a short range, and so may say how much of another tensor is let through."""
    SOFTMAX = auto()
    """A softmax, or its logarithm, along the dimension that is the second argument: it is the same whatever is added
    to all entries of a row."""
    STATISTIC = auto()
    """Makes one number of the entries of ``x`` along some dimensions: their sum, norm, mean or deviation."""

    # ------------------------------------------------------------ what becomes of the entries of x
    IDENTITY = auto()
    """The result equals ``x``."""
    DETACHES = auto()
    """The result is ``x`` itself, without its history."""
    DROPS = auto()
    """The result equals ``x`` in evaluation mode."""
    MOVES = auto()
    """The result has every entry of ``x`` once: its dimensions are reordered, split or merged."""
    RESHAPES = auto()
    """The result has the entries of ``x``, in their order, in the shape that is the second argument."""
    TRANSPOSES = auto()
    """The result has the dimensions of ``x`` in another order."""
    SHIFTS = auto()
    """The result has every entry of ``x`` once, at another place of the same dimension."""
    PICKS = auto()
    """The results have entries of ``x``: a part of them, or some of them several times."""
    LOOKS_UP = auto()
    """The result has entries of ``x`` at the places that integers, other arguments, count."""
    SCATTERS = auto()
    """Writes to the entries of ``x`` at the places that integers or masks, other arguments, say."""
    BY_COLUMN = auto()
    """The third argument counts entries of ``x`` along one dimension, and has numbers of its own for each place of the
    others."""
    EXPANDS = auto()
    """Dimensions of size 1 are repeated up to the shape that is the second argument."""
    SHUFFLES = auto()
    """Channels change their order, unless every row of a rectangle keeps the same ones."""
    EQUAL_PIECES = auto()
    """All results but the last are equally long, which the program that calls it demands and not the rule."""

    # ------------------------------------------------------------ labels
    MAKES_LABELS = auto()
    """Results have labels even where no argument has any: their entries can be removed one by one."""
    LIKE = auto()
    """The result has the shape of ``x``, and one number everywhere or no values."""
    FROM_SIZES = auto()
    """Makes a tensor from sizes and numbers alone."""
    ADDS_ZEROS = auto()
    """Beside the entries of an argument there are zeros, with labels of their own."""
    NO_VALUES = auto()
    """The values of the result are random or undefined."""
    KEEPS_INDEXES = auto()
    """Integers that count entries of a dimension still count the same ones in the result."""
    TAKES_ROWS = auto()
    """A mask, one of the arguments, may say which rows take part, each with all of its channels."""
    KNOWS_INDEXES = auto()
    """The rule knows what integers mean that count entries of a dimension, or does not look at their values."""
