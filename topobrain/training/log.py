"""TrainingLog: what training did, as a result. Needs no torch, so figures can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from topobrain.results import Result

if TYPE_CHECKING:
    import pandas as pd


class TrainingLog(Result):
    """``train_loss (step)`` in nats a predicted token; ``held_out_loss held_out_accuracy (evaluation)``."""

    kind: ClassVar[str] = "training"
    schema: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train_loss": ("step",),
        "held_out_loss": ("evaluation",),
        "held_out_accuracy": ("evaluation",),
    }

    def summary(self) -> pd.DataFrame:
        """Return one row: steps, loss and accuracy on the held-out part before and after training, and on a test set.

        ``topography_loss`` is that of the last step, times its strength; of runs that have one.
        """
        import pandas as pd

        loss, accuracy = self.data["held_out_loss"].values, self.data["held_out_accuracy"].values
        more = {}
        if "topography_loss" in self.data and (self.data["topography_loss"] != 0).any():
            more["topography_loss"] = float(self.data["topography_loss"].values[-1])
        for name in ("test_loss", "test_accuracy"):
            if name in self.data:
                more[name] = float(self.data[name])
        return pd.DataFrame(
            [
                {
                    "model": self.provenance["model"]["name"],
                    "steps": int(self.data.sizes["step"]),
                    "held_out_loss_untrained": float(loss[0]),
                    "held_out_loss": float(loss[-1]),
                    "held_out_accuracy_untrained": float(accuracy[0]),
                    "held_out_accuracy": float(accuracy[-1]),
                    **more,
                }
            ]
        )
