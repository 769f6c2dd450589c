"""StimulusSet and Contrast: what is shown to models and people, and which conditions are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from topobrain._checks import InputError, listed, unknown

if TYPE_CHECKING:
    import pandas as pd


class StimulusSet:
    """Stimuli in order, with one row of a table for each.

    Parameters
    ----------
    items
        Texts, or images as uint8 arrays (height, width, 3).
    table
        DataFrame or mapping of columns, one row a stimulus (``condition``, ``group``, ...). Its index, or a column
        ``stimulus``, gives the unique identifiers; without either they are ``s0000, s0001, ...``.
    name
        Name used in titles and provenance.
    provenance
        Free fields kept with every result made from the set (citation, licence, ``simulated=True``, ...).

    Examples
    --------
    >>> stimuli = StimulusSet(["a dog", "blick dax"], {"condition": ["sentence", "nonword"]})
    >>> stimuli.where(condition="nonword").items
    ('blick dax',)
    """

    def __init__(
        self,
        items: Sequence[Any],
        table: pd.DataFrame | Mapping[str, Sequence[Any]] | None = None,
        *,
        name: str = "stimuli",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        import pandas as pd

        if isinstance(items, str):
            raise InputError("items must be a sequence of stimuli, got one string; wrap it in a list")
        self.items: tuple[Any, ...] = tuple(items)
        if not self.items:
            raise InputError("a stimulus set needs at least one stimulus, got none")
        for position, item in enumerate(self.items):
            if isinstance(item, str):
                if not item.strip():
                    raise InputError(f"stimulus {position} is empty: every sentence needs at least one word")
                if "\x00" in item or any("\ud800" <= c <= "\udfff" for c in item):
                    raise InputError(
                        f"stimulus {position} holds a character that is no text (NUL or half a surrogate pair)"
                    )
            elif not isinstance(item, np.ndarray):
                raise InputError(
                    f"stimulus {position} is a {type(item).__name__}: expected text, or an image as a uint8 array "
                    "(height, width, 3)"
                )
        frame = pd.DataFrame(index=range(len(self.items))) if table is None else pd.DataFrame(table)
        if len(frame) != len(self.items):
            raise InputError(f"the table has {len(frame)} rows for {len(self.items)} stimuli: expected one row each")
        if "stimulus" in frame.columns:
            frame = frame.set_index("stimulus")
        elif table is None or isinstance(frame.index, pd.RangeIndex):
            digits = max(4, len(str(len(frame) - 1)))
            frame.index = pd.Index([f"s{i:0{digits}d}" for i in range(len(frame))])
        frame.index = pd.Index([str(label) for label in frame.index], name="stimulus", dtype=object)
        for column in frame.columns:
            label = str(column)
            if not label or any(c.isspace() or c == "/" for c in label):
                raise InputError(f"stimulus column {label!r} cannot be stored: names have no spaces and no '/'")
        if not frame.index.is_unique:
            twice = frame.index[frame.index.duplicated()].unique()
            raise InputError(f"stimulus identifiers must be unique; these occur more than once: {listed(twice, 5)}")
        self.table: pd.DataFrame = frame
        self.name = name
        self.provenance: dict[str, Any] = dict(provenance or {})

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __repr__(self) -> str:
        columns = listed(self.table.columns)
        return f"StimulusSet({self.name!r}, {len(self)} stimuli, columns: {columns})"

    @property
    def ids(self) -> list[str]:
        """Unique identifier of each stimulus, in order."""
        return [str(label) for label in self.table.index]

    @property
    def texts(self) -> list[str]:
        """The stimuli as text; image sets give their identifiers."""
        return [item if isinstance(item, str) else label for item, label in zip(self.items, self.ids, strict=True)]

    def column(self, name: str) -> np.ndarray:
        """Return one table column as an array (stimulus,), or raise with near names."""
        if name not in self.table.columns:
            raise unknown("stimulus column", name, list(self.table.columns), f"(in stimulus set {self.name!r})")
        return self.table[name].to_numpy()

    def where(self, **conditions: Any) -> StimulusSet:
        """Return the stimuli whose columns equal the given values (or are in a given list).

        >>> StimulusSet(["a", "b", "c"], {"group": [1, 2, 3]}).where(group=[1, 3]).items
        ('a', 'c')
        """
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in conditions.items():
            values = self.column(name)
            allowed = list(wanted) if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted]
            missing = [value for value in allowed if value not in set(values.tolist())]
            if missing:
                raise unknown(f"value of column {name!r}", missing[0], sorted({str(v) for v in values}))
            keep &= np.isin(values.astype(object), np.array(allowed, dtype=object))
        if not keep.any():
            raise InputError(f"no stimulus of {self.name!r} satisfies {conditions}")
        return self.take(np.flatnonzero(keep))

    def take(self, positions: Sequence[int] | np.ndarray) -> StimulusSet:
        """Return the stimuli at the given positions, in that order."""
        rows = [int(position) for position in positions]
        table = self.table.iloc[rows].reset_index()
        return StimulusSet([self.items[r] for r in rows], table, name=self.name, provenance=self.provenance)

    def digest(self) -> str:
        """Return the sha256 of the stimuli and their identifiers, in order (the table's other columns do not count)."""
        sha = hashlib.sha256()
        for label, item in zip(self.ids, self.items, strict=True):
            sha.update(repr(label).encode())
            if isinstance(item, str):
                sha.update(b"t" + str(len(item)).encode() + b":" + item.encode())
            else:
                sha.update(f"a{item.dtype}{item.shape}:".encode() + np.ascontiguousarray(item).tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class Contrast:
    """A comparison of two conditions: ``on`` minus ``off``.

    Parameters
    ----------
    name
        Name of the contrast, for titles and for the ``contrast`` axis of results.
    on, off
        One value, or several, of the stimulus column ``by``.
    by
        The stimulus column holding the conditions.

    Examples
    --------
    >>> Contrast("language", on="sentence", off="nonword").off
    ('nonword',)
    """

    name: str
    on: str | tuple[str, ...]
    off: str | tuple[str, ...]
    by: str = "condition"

    def __post_init__(self) -> None:
        for side in ("on", "off"):
            value = getattr(self, side)
            several = isinstance(value, list | tuple | set | frozenset | np.ndarray)
            values = tuple(str(v) for v in value) if several else (str(value),)
            if not values:
                raise InputError(f"contrast {self.name!r} has no condition on its {side!r} side")
            object.__setattr__(self, side, values)
        both = set(self.on) & set(self.off)
        if both:
            raise InputError(
                f"contrast {self.name!r} has {sorted(both)} on both sides: it would compare it with itself"
            )

    def masks(self, labels: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return boolean masks (stimulus,) of the on and the off side; both need at least two stimuli."""
        text = np.array([str(label) for label in labels], dtype=object)
        present = sorted(set(text.tolist()))
        for value in (*self.on, *self.off):
            if value not in present:
                raise unknown(f"condition of contrast {self.name!r}", value, present)
        on, off = np.isin(text, list(self.on)), np.isin(text, list(self.off))
        for side, mask in (("on", on), ("off", off)):
            if mask.sum() < 2:
                raise InputError(
                    f"contrast {self.name!r} has {int(mask.sum())} stimulus on its {side!r} side: "
                    "a t-value needs at least two"
                )
        return on, off
