"""The store: manifests of data and weights, their verified files, and the cache of what topobrain made itself."""

from topobrain.store.cache import cache_directory
from topobrain.store.files import fetch, find_manifest, status, store_directory
from topobrain.store.manifest import DataFile, Manifest, load_manifests

__all__ = [
    "DataFile",
    "Manifest",
    "cache_directory",
    "fetch",
    "find_manifest",
    "load_manifests",
    "status",
    "store_directory",
]
