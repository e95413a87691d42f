"""Choices that cost something together (cost.Term), as a program sees them: one group for each term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hardware.cost import CostTable, Path

BOUNDS = 40  # multipliers of the cost that are tried for the lowest bound
SLACK = 1e-9  # of the values' range: what rounding makes of a bound


class Lifted:
    """Costs with terms as costs without: a group for each part of ``table``, whose choices are those of all its own
    groups together. Of a table without terms, that table.

    A group of the table that several parts have is one choice: what they say of it must match.
    """

    def __init__(self, table: CostTable) -> None:
        self.parts, self.stages, self.fixed = table.parts, table.stages, table.fixed
        self.sizes = [len(group) for group in table.groups]
        self.is_plain = not table.terms

    @staticmethod
    def table(table: CostTable) -> CostTable:
        groups = tuple(tuple(map(float, part.costs.ravel())) for part in table.parts)
        return replace(table, groups=groups, terms=())

    def rows(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each group's values once: in the first part that has it."""
        found, seen = [], set[int]()
        for part in self.parts:
            together = np.zeros(part.costs.shape)
            for axis, group in enumerate(part.groups):
                if group not in seen:
                    together = together + rows[group].reshape(_along(axis, part.costs.ndim))
            seen |= {*part.groups}
            found.append(together.ravel())
        return found

    @cached_property
    def matches(self) -> tuple[tuple[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]], ...]:
        """Each part that has a group with the one before it that has it: (the two; which choice of the group each of
        their choices holds)."""
        last: dict[int, int] = {}
        found = []
        for index, part in enumerate(self.parts):
            for group in part.groups:
                if group in last:
                    labels = (self._labels(last[group], group), self._labels(index, group))
                    found.append(((last[group], index), labels))
                last[group] = index
        return tuple(found)

    def _labels(self, index: int, group: int) -> tuple[int, ...]:
        """The choice of ``group`` in each choice of a part."""
        part = self.parts[index]
        axis = part.groups.index(group)
        labels = np.arange(part.costs.shape[axis]).reshape(_along(axis, part.costs.ndim))
        return tuple(np.broadcast_to(labels, part.costs.shape).ravel().tolist())

    def own(self, path: Path) -> Path:
        """The table's own choices."""
        if self.is_plain:
            return path
        found = [0] * len(self.sizes)
        for part, choice in zip(self.parts, path, strict=True):
            for group, index in zip(part.groups, np.unravel_index(choice, part.costs.shape), strict=True):
                found[group] = int(index)
        return tuple(found)

    # Bounds ----------------------------------------------------------------------------------------------------------

    def reaching(self, least: float, rows: Sequence[np.ndarray], lower: float, upper: float) -> np.ndarray:
        """Which choices of the parts, in a row, can be in networks whose values (of ``rows``) add up to ``least`` or
        more and whose cost is within ``lower`` to ``upper``: of the others a bound says that they cannot.

        For a multiplier m >= 0 of the cost, such a network has values - m (cost - upper) of ``least`` or more; for
        m < 0 with ``lower`` in place of it. The largest that comes with a choice is found stage by stage, from both
        ends (Lagrangian relaxation; m is where the bound of all networks is about lowest).
        """
        values, costs = self.rows(rows), [part.costs.ravel() for part in self.parts]
        spread = sum(float(np.ptp(each)) for each in values) / max(sum(float(np.ptp(each)) for each in costs), 1e-300)

        def bounds(multiplier: float) -> list[np.ndarray]:
            edge = (upper if multiplier >= 0 else lower) - self.fixed
            through = self._best_through([v - multiplier * c for v, c in zip(values, costs, strict=True)])
            return [each + multiplier * edge for each in through]

        tried = [sign * spread * 10.0**power for sign in (1, -1) for power in np.linspace(-2, 2, BOUNDS // 2)]
        usable = [each for each in (0.0, *tried) if each >= 0 or np.isfinite(lower)]
        best = min((bounds(each) for each in usable), key=lambda found: found[0].max())
        slack = SLACK * (sum(float(np.ptp(each)) for each in values) + abs(least))
        return np.concatenate([each >= least - slack for each in best])

    @cached_property
    def _links(self) -> list[_Links]:
        """Of each stage: where its states, before and behind, and its choices are."""
        found: list[_Links] = []
        states: list[Path] = [()]
        for stage in self.stages:
            steps = [(number, *step[1:]) for number, state in enumerate(states) for step in stage.options(state)]
            behind = list(dict.fromkeys(state for _, _, state in steps))
            number_of = {state: number for number, state in enumerate(behind)}
            before, place, after = np.array([(before, place, number_of[state]) for before, place, state in steps]).T
            found.append(_Links(before, place, after, len(states), len(behind)))
            states = behind
        return found

    def _best_through(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """By part and choice: the largest sum of values that a network with it has."""
        forward, backward = [np.zeros(1)], [np.zeros(1)]
        for links, own in zip(self._links, values, strict=True):
            reached = np.full(links.n_behind, -np.inf)
            np.maximum.at(reached, links.behind, forward[-1][links.before] + own[links.place])
            forward.append(reached)
        for links, own in zip(reversed(self._links), reversed(values), strict=True):
            reached = np.full(links.n_before, -np.inf)
            np.maximum.at(reached, links.before, backward[-1][links.behind] + own[links.place])
            backward.append(reached)
        found = []
        for links, own, start, end in zip(self._links, values, forward, backward[-2::-1], strict=False):
            through = np.full(len(own), -np.inf)
            np.maximum.at(through, links.place, start[links.before] + own[links.place] + end[links.behind])
            found.append(through)
        return found


class _Links(NamedTuple):
    """Steps of a stage, from a state before it over a choice of the part to a state behind it, by their numbers."""

    before: np.ndarray
    place: np.ndarray
    behind: np.ndarray
    n_before: int
    n_behind: int


def _along(axis: int, n_axes: int) -> list[int]:
    """The shape of what varies along one axis."""
    return [-1 if each == axis else 1 for each in range(n_axes)]
