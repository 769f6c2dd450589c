"""BrainResponses: what voxels did for each stimulus, with subject, ROI and noise ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import xarray as xr

from topobrain._checks import DataFileError, InputError, listed, near, require_choice, unknown
from topobrain.activations import stimuli_fields, stimulus_coords
from topobrain.results import Result
from topobrain.stimuli import StimulusSet

if TYPE_CHECKING:
    import pandas as pd

TABLE_READERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
BRAIN_IMAGES = (".nii", ".nii.gz", ".mgh", ".mgz", ".gii")


class BrainResponses(Result):
    """Brain responses, one row a stimulus and one column a voxel (also a vertex, or an ROI average).

    ``value (stimulus, voxel)``; coordinates ``subject``, ``roi`` and ``ceiling`` (noise ceiling in Pearson r, NaN where
    it is not known) on the voxel axis, the stimulus table on the stimulus axis. The column ``group``, where present,
    names stimuli that must stay on one side of a cross-validation split (passage, run).
    """

    kind: ClassVar[str] = "responses"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "value": ("stimulus", "voxel"),
        "text": ("stimulus",),
        "subject": ("voxel",),
        "roi": ("voxel",),
        "ceiling": ("voxel",),
    }

    @classmethod
    def from_arrays(
        cls,
        values: np.ndarray,
        stimuli: StimulusSet,
        *,
        roi: Sequence[str] | str = "all",
        subject: Sequence[str] | str = "group",
        ceiling: np.ndarray | float | None = None,
        design: Literal["events", "timeseries"] = "events",
        voxel_coords: Mapping[str, np.ndarray] | None = None,
        variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> BrainResponses:
        """Build responses from an array (stimulus, voxel).

        Parameters
        ----------
        values
            Responses (stimulus, voxel), any unit; NaN marks missing values. float32 and float64 are kept as they are and
            not copied, half precision becomes float32, anything else float64.
        stimuli
            The stimuli of the rows.
        roi, subject
            One label a voxel, or one for all.
        ceiling
            Noise ceiling in Pearson r, one a voxel or one for all; unknown (NaN) if not given.
        design
            ``"events"`` for one response a stimulus, ``"timeseries"`` for consecutive volumes: decides default folds.
        voxel_coords
            Further coordinates on the voxel axis (``vertex``, ``x_mm``, ...).
        variables
            Further variables to keep in the file: name -> (dims, array), e.g. a simulation's true weights.
        provenance
            Citation, licence, preprocessing, ``simulated=True``, ...

        Raises
        ------
        InputError
            Shapes do not fit, a value is infinite (its stimulus and voxel are named), or a ceiling is no correlation.
        """
        values = np.asarray(values)
        if values.dtype.kind not in "fiubO":
            raise InputError(f"responses are an array of {values.dtype}: expected real numbers (stimulus, voxel)")
        if values.dtype == object:
            values = real_numbers("responses", values)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
        require_choice("design", design, ("events", "timeseries"))
        if values.ndim != 2 or len(values) != len(stimuli):
            raise InputError(
                f"responses have shape {values.shape}, expected (stimulus, voxel) with {len(stimuli)} stimuli"
            )
        for row, response in enumerate(
            values
        ):  # row by row: a mask of the whole array would take a quarter of its memory
            if np.isinf(response).any():
                column = int(np.flatnonzero(np.isinf(response))[0])
                raise InputError(f"responses hold an infinite value at stimulus {stimuli.ids[row]!r}, voxel {column}")
        n_voxels = values.shape[1]

        def one_each(name: str, given: Any) -> np.ndarray:
            array = np.array([given] * n_voxels if np.ndim(given) == 0 else list(given))
            if array.shape != (n_voxels,):
                raise InputError(f"{name} has {array.shape} labels for {n_voxels} voxels: expected one each")
            return array.astype(object) if array.dtype.kind in "US" else array

        numbers = real_numbers("ceiling", np.nan if ceiling is None else ceiling)
        ceilings = one_each("ceiling", numbers if numbers.ndim else float(numbers))
        if (ceilings < 0).any() or (ceilings > 1).any():
            raise InputError("a noise ceiling is a correlation from 0 to 1 (NaN where unknown)")
        data = xr.Dataset(
            {"value": (("stimulus", "voxel"), values), **{k: (d, v) for k, (d, v) in (variables or {}).items()}},
            coords={
                **stimulus_coords(stimuli),
                "voxel": ("voxel", np.arange(n_voxels)),
                "subject": ("voxel", one_each("subject", subject)),
                "roi": ("voxel", one_each("roi", roi)),
                "ceiling": ("voxel", ceilings),
                **{name: ("voxel", np.asarray(array)) for name, array in (voxel_coords or {}).items()},
            },
            attrs=cls.attributes({"design": design, "stimuli": stimuli_fields(stimuli), **(provenance or {})}),
        )
        return cls(data)

    @classmethod
    def from_table(
        cls,
        table: str | Path | pd.DataFrame,
        *,
        text: str = "sentence",
        stimulus: str | None = None,
        rois: Sequence[str] | None = None,
        group: str | None = None,
        ceilings: Mapping[str, float] | float | None = None,
        design: Literal["events", "timeseries"] = "events",
        provenance: Mapping[str, Any] | None = None,
    ) -> BrainResponses:
        """Read responses from a table: one row a stimulus, a text column and one numeric column an ROI.

        Parameters
        ----------
        table
            A CSV, TSV or Parquet file, or a DataFrame.
        text
            Column of the stimulus texts.
        stimulus
            Column of unique identifiers (default: a column ``item_id`` or ``stimulus`` if there is one).
        rois
            Response columns (default: every numeric column that is not named otherwise).
        group
            Column of labels that folds must not split (passage, run).
        ceilings
            ROI -> noise ceiling in Pearson r, or one number for all.
        design
            ``"events"`` or ``"timeseries"``: see `from_arrays`.
        provenance
            Citation, licence, ...

        Raises
        ------
        DataFileError
            The file is missing or no table.
        InputError
            A column is missing (near names are offered) or not numeric, or a stimulus has no text.
        """
        import pandas as pd

        frame = table if isinstance(table, pd.DataFrame) else read_table(table)
        where = "the table" if isinstance(table, pd.DataFrame) else str(table)
        frame = named_columns(frame, where)

        def need(given: Any) -> str:
            name = str(given)
            if name not in frame.columns:
                close = near(name, frame.columns)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(f"{where} has no column {name!r}.{guess} Columns: {listed(frame.columns)}")
            return name

        need(text)
        label = stimulus or next((c for c in ("item_id", "stimulus") if c in frame.columns), None)
        used = {text, need(label) if label else None, need(group) if group else None}
        numeric = [
            str(c)
            for c in frame.columns
            if c not in used
            and pd.api.types.is_numeric_dtype(frame[c])
            and not pd.api.types.is_bool_dtype(frame[c])
            and not str(c).startswith("Unnamed")  # a row index that pandas wrote along
        ]
        if rois is not None and (isinstance(rois, str) or not hasattr(rois, "__iter__")):
            raise InputError(f"rois is {rois!r}: expected a list of columns")
        columns = [need(roi) for roi in rois] if rois is not None else numeric
        labels = [column for column in columns if rois is None and column.casefold().removesuffix("_id") in LABELS]
        if labels:
            warnings.warn(
                f"numeric columns of {where} are taken for responses, also {listed(map(repr, labels))}: if such a column says "
                f"what belongs together, name it (group={labels[0]!r}, --group {labels[0]}); else name the responses "
                "(rois=[...])",
                stacklevel=2,
            )
        if not columns:
            raise InputError(
                f"{where} has no numeric response column beside {text!r}. Columns: {listed(frame.columns)}"
            )
        for column in columns:
            if not pd.api.types.is_numeric_dtype(frame[column]):
                raise InputError(f"column {column!r} of {where} is not numeric")
            if frame[column].dtype.kind == "c":
                raise InputError(f"column {column!r} of {where} holds complex numbers: expected real ones")
        fields: dict[str, Any] = {"group": whole_labels(frame[group], "group", where)} if group else {}
        if label:
            fields["stimulus"] = whole_labels(frame[label], "stimulus", where)
        empty = frame[text].isna() | (frame[text].astype(str).str.strip() == "")
        if empty.any():
            raise InputError(
                f"row {int(np.flatnonzero(empty)[0])} of {where} has an empty {text!r}: every stimulus needs text"
            )
        known = (
            ceilings if isinstance(ceilings, Mapping) else {} if ceilings is None else dict.fromkeys(columns, ceilings)
        )
        for roi in known:
            if roi not in frame.columns:
                raise unknown("ROI of ceilings", roi, columns)
        name = "table" if isinstance(table, pd.DataFrame) else Path(table).stem
        stimuli = StimulusSet(frame[text].astype(str).tolist(), fields or None, name=name)
        ceiling = real_numbers("ceilings", [known.get(column, np.nan) for column in columns])
        source = {} if isinstance(table, pd.DataFrame) else {"name": name, "file": Path(table).name}
        return cls.from_arrays(
            frame[columns].to_numpy(dtype=float),
            stimuli,
            roi=columns,
            ceiling=ceiling,
            design=design,
            provenance={**source, **(provenance or {})},
        )

    @property
    def design(self) -> str:
        """``"events"`` or ``"timeseries"``."""
        return str(self.provenance.get("design", "events"))

    @property
    def stimuli(self) -> StimulusSet:
        """The stimuli of the rows, to hand to `extract`."""
        import pandas as pd

        columns = {str(n): c.values for n, c in self.data.coords.items() if c.dims == ("stimulus",) and n != "text"}
        fields = self.provenance.get("stimuli", {})
        extra = {k: v for k, v in fields.items() if k not in ("name", "n_stimuli", "sha256")}
        return StimulusSet(
            self.labels("text").tolist(), pd.DataFrame(columns), name=fields.get("name", "stimuli"), provenance=extra
        )

    @property
    def values(self) -> np.ndarray:
        """Responses (stimulus, voxel) in the precision they are kept in, float32 or float64."""
        return np.asarray(self.data["value"].values)

    @property
    def rois(self) -> list[str]:
        """The ROIs, in order of first appearance."""
        return list(dict.fromkeys(self.labels("roi").tolist()))

    @property
    def subjects(self) -> list[str]:
        """The subjects, in order of first appearance."""
        return list(dict.fromkeys(self.labels("subject").tolist()))

    def where(
        self, *, roi: str | Sequence[str] | None = None, subject: str | Sequence[str] | None = None
    ) -> BrainResponses:
        """Return the voxels of some ROIs and subjects; an unknown name is answered with near names."""
        keep = np.ones(self.data.sizes["voxel"], dtype=bool)
        for axis, wanted, known in (("roi", roi, self.rois), ("subject", subject, self.subjects)):
            if wanted is None:
                continue
            names = [wanted] if isinstance(wanted, str) else list(wanted)
            for name in names:
                if name not in known:
                    raise unknown(axis if axis == "subject" else "ROI", name, known)
            keep &= np.isin(self.labels(axis), names)
        if not keep.any():
            raise InputError(f"no voxel is in roi={roi!r} and subject={subject!r}")
        return BrainResponses(self.data.isel(voxel=np.flatnonzero(keep)))

    def missing(self) -> pd.DataFrame:
        """Return where responses are missing: one row a stretch of consecutive stimuli without values.

        Returns
        -------
        DataFrame
            ``first``, ``last`` (identifiers of the stretch's stimuli), ``n_stimuli``, ``n_voxels`` (that lack exactly this
            stretch), ``subjects``, ``rois`` (of those voxels); the longest stretches of most voxels first.
        """
        import pandas as pd

        absent = np.isnan(self.values)
        ids, stretches = self.labels("stimulus"), dict[tuple[int, int], list[int]]()
        for voxel in np.flatnonzero(absent.any(axis=0)):
            edges = np.flatnonzero(np.diff(absent[:, voxel].astype(np.int8), prepend=0, append=0))
            for start, stop in edges.reshape(-1, 2).tolist():
                stretches.setdefault((start, stop), []).append(int(voxel))
        rows = [
            {
                "first": ids[start],
                "last": ids[stop - 1],
                "n_stimuli": stop - start,
                "n_voxels": len(voxels),
                "subjects": ", ".join(dict.fromkeys(self.labels("subject")[voxels].tolist())),
                "rois": listed(dict.fromkeys(self.labels("roi")[voxels].tolist())),
            }
            for (start, stop), voxels in stretches.items()
        ]
        columns = ["first", "last", "n_stimuli", "n_voxels", "subjects", "rois"]
        rows.sort(key=lambda row: (-row["n_stimuli"] * row["n_voxels"], str(row["first"])))
        return pd.DataFrame(rows, columns=columns)

    def summary(self) -> pd.DataFrame:
        """Return one row an ROI: subjects, voxels, mean noise ceiling, voxels with missing or constant values."""
        import pandas as pd

        values, rows = self.values, []
        for roi in self.rois:
            inside = self.labels("roi") == roi
            part = values[:, inside]
            ceiling = self.data["ceiling"].values[inside]
            rows.append(
                {
                    "roi": roi,
                    "n_subjects": len(set(self.labels("subject")[inside].tolist())),
                    "n_voxels": int(inside.sum()),
                    "ceiling": float(np.nanmean(ceiling)) if np.isfinite(ceiling).any() else np.nan,
                    "n_unusable_voxels": int((~np.isfinite(part).all(axis=0) | (np.ptp(part, axis=0) == 0)).sum()),
                }
            )
        return pd.DataFrame(rows)


def real_numbers(what: str, given: Any) -> np.ndarray:
    """Return numbers as a float64 array; text, complex numbers and objects are an error that shows the first of them."""
    array = given if isinstance(given, np.ndarray) else np.asarray(given, dtype=object)
    if array.dtype.kind in "fiub":
        return np.asarray(array, dtype=np.float64)
    try:
        if array.dtype.kind == "O" and not any(isinstance(x, str | bytes | complex) for x in array.ravel().tolist()):
            return np.asarray(array.astype(np.float64))
    except (TypeError, ValueError):
        pass
    wrong = next((x for x in array.ravel().tolist() if isinstance(x, complex) or not isinstance(x, int | float)), None)
    raise InputError(f"{what} holds {wrong!r}: expected real numbers")


def named_columns(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a table whose columns have texts for names; two of one name are an error."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where} has several columns of one name: {listed(twice, 5)}")
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def whole_labels(column: pd.Series, what: str, where: str) -> np.ndarray:
    """Return labels as texts; a row without one is named: as the text "nan" all of them would become one label."""
    absent = (column.isna() | (column.astype(str).str.strip() == "")).to_numpy()
    if absent.any():
        raise InputError(
            f"row {int(absent.argmax())} of {where} has no label in column {str(column.name)!r} ({what}): every stimulus "
            "needs one"
        )
    return np.asarray(column.astype(str), dtype=object)


def _call_for(source: Path) -> str:
    """Return the call that reads a brain image."""
    if source.name.lower().endswith((".nii", ".nii.gz")):
        return (
            f"load_responses({str(source)!r}, stimuli=StimulusSet([...]), mask=...), whose options are those of "
            "topobrain.brain_files.responses_from_nifti"
        )
    return (
        f"topobrain.brain_files.responses_from_surface({{'left': {str(source)!r}, 'right': ...}}, "
        "stimuli=StimulusSet([...]))"
    )


LABELS = (
    "passage", "group", "run", "subject", "participant", "session", "block", "fold", "story", "trial", "repeat", "repetition",
    "order", "position", "index", "id",
)  # fmt: skip
"""Names, without a final ``_id``, of columns that are hardly responses, though they hold numbers."""


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet table; say plainly what is wrong with anything else.

    Raises
    ------
    DataFileError
        The file is missing, or is no table (a brain image, a broken encoding, ragged rows).
    """
    import pandas as pd

    source = Path(path)
    if any(source.name.lower().endswith(ending) for ending in BRAIN_IMAGES):
        raise DataFileError(
            f"{source} is a brain image; a table was expected (CSV, TSV or Parquet: one row a stimulus, a text column, "
            f"one numeric column an ROI). An image needs stimuli=, which say what its volumes answer: {_call_for(source)}; or "
            "describe it in a responses.toml"
        )
    if not source.is_file():
        beside = sorted(p.name for p in source.parent.glob("*.*sv")) if source.parent.is_dir() else []
        folder = source.parent.resolve()
        found = f"Tables in {folder}: {listed(beside)}" if beside else f"{folder} has no table"
        raise DataFileError(f"no table {source}. {found}")
    try:
        if source.suffix == ".parquet":
            return pd.read_parquet(source)
        if source.suffix not in TABLE_READERS:
            raise DataFileError(
                f"{source} is no table topobrain reads: expected {listed([*TABLE_READERS, '.parquet'])}"
            )
        table = pd.read_csv(source, sep=TABLE_READERS[source.suffix])
        if table.shape[1] == 1 and ";" in str(table.columns[0]):
            raise DataFileError(f"{source} is separated by semicolons: save it with commas, or as .tsv with tabs")
        return table
    except (ImportError, ValueError) as error:  # pandas' parse errors are ValueErrors; Parquet needs pyarrow
        raise DataFileError(f"{source} cannot be read as a table (expected UTF-8 text): {error}") from error
