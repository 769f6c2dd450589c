"""localize: which units prefer one condition, whether they lie together on the sheet, and what they do elsewhere."""

from topobrain.selectivity.localizing import localize
from topobrain.selectivity.profiles import Profile, response_profile
from topobrain.selectivity.published import PUBLISHED
from topobrain.selectivity.result import SPATIAL, Selectivity

__all__ = ["PUBLISHED", "SPATIAL", "Profile", "Selectivity", "localize", "response_profile"]
