"""Find duplicates of labelled segments without comparing all pairs."""

from tad.annotations.table import Instance

Cells = dict[float, dict[float, list[Instance]]]
FEW = 8  # instances of a label up to which all are compared, which is quicker than an index


class Near:
    """Instances of one video in the order in which they were added, indexed by label, start and end.

    Starts and ends are rounded down to a grid of twice the tolerance, so whatever lies within the tolerance of a
    segment is in its cell or in one of the eight around it, also after rounding errors.
    """

    def __init__(self, tolerance: float) -> None:
        """Create an empty index.

        Args:
            tolerance: seconds by which both ends of duplicates differ less.
        """
        self.instances: list[Instance] = []
        self._tolerance, self._grid = tolerance, 2 * tolerance
        self._few: dict[str, list[Instance]] = {}
        self._cells: dict[str, Cells] = {}
        self._order: dict[int, int] = {}  # identity of an indexed instance → its position

    def add(self, instance: Instance) -> None:
        """Append an instance with finite ends."""
        few = self._few.setdefault(instance.label, [])
        if len(few) < FEW:
            few.append(instance)
            self._order.setdefault(id(instance), len(self.instances))
            self.instances.append(instance)
            return
        if instance.label not in self._cells:
            for earlier in few:
                self._index(earlier)
        self._order.setdefault(id(instance), len(self.instances))
        self.instances.append(instance)
        self._index(instance)

    def _index(self, instance: Instance) -> None:
        start, end = instance.start // self._grid, instance.end // self._grid
        cell = self._cells.setdefault(instance.label, {}).setdefault(start, {}).setdefault(end, [])
        # An exact copy (kept by the data set's policy) would never be the first that is found.
        if not any(other.start == instance.start and other.end == instance.end for other in cell):
            cell.append(instance)

    def find(self, instance: Instance) -> Instance | None:
        """Return the first instance with the same label and both ends nearer than the tolerance, or None."""
        starts = self._cells.get(instance.label)
        if starts is None:
            for other in self._few.get(instance.label, ()):
                if self._near(instance, other):
                    return other
            return None
        row, column = instance.start // self._grid, instance.end // self._grid
        near = [
            other
            for start in (row - 1, row, row + 1)
            if (ends := starts.get(start))
            for end in (column - 1, column, column + 1)
            for other in ends.get(end, ())
            if self._near(instance, other)
        ]
        return min(near, key=lambda other: self._order[id(other)], default=None)

    def _near(self, one: Instance, other: Instance) -> bool:
        return abs(one.start - other.start) < self._tolerance and abs(one.end - other.end) < self._tolerance
