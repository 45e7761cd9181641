"""Kinds of notes about how annotations were read. A note is a string; a plain string is about a conversion."""


class Choice(str):
    """A note that a setting was applied. Other notes may point to a mistake in the labels; this one does not."""

    __slots__ = ()
