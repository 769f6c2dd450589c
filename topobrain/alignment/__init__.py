"""align: do a few dimensions of a model line up with a brain, and does where its units lie matter for that?"""

from topobrain.alignment.aligning import align
from topobrain.alignment.result import Alignment

__all__ = ["Alignment", "align"]
