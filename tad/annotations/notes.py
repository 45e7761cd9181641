"""Kinds of notes about how annotations were read: a note is its sentence, and a plain text one about a conversion."""


class Choice(str):
    """A note about what a setting asked for. It needs no attention, unlike other notes, which may tell of a mistake."""

    __slots__ = ()
