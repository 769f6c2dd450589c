"""Encoding as jobs: planned, run on this machine or on a cluster, kept as they are done."""

from topobrain.jobs.fan_out import default_store, encode_all
from topobrain.jobs.parts_store import PartsStore
from topobrain.jobs.plan import Plan, PlannedJob
from topobrain.jobs.work import Job, JobError, run_job

__all__ = ["Job", "JobError", "PartsStore", "Plan", "PlannedJob", "default_store", "encode_all", "run_job"]
