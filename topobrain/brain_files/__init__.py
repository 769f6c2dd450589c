"""Brain data in their own formats: volumes, surfaces, BIDS trees, assemblies and tables become responses, and results images.

nibabel and nilearn are imported when the first file is read.
"""

from topobrain.brain_files.assemblies import is_assembly, read_assembly, write_assembly
from topobrain.brain_files.bids import BidsFile, find_bids, parse_bids_name, read_confounds, read_events
from topobrain.brain_files.bids_responses import responses_from_bids
from topobrain.brain_files.long_tables import responses_from_long_table
from topobrain.brain_files.maps import save_map
from topobrain.brain_files.places import side_by_side
from topobrain.brain_files.surfaces import responses_from_surface
from topobrain.brain_files.volumes import responses_from_nifti

__all__ = [
    "BidsFile",
    "find_bids",
    "is_assembly",
    "parse_bids_name",
    "read_assembly",
    "read_confounds",
    "read_events",
    "responses_from_bids",
    "responses_from_long_table",
    "responses_from_nifti",
    "responses_from_surface",
    "save_map",
    "side_by_side",
    "write_assembly",
]
