"""Defines the tables of the record, one typed class each.

This package imports every module of tables, so that the metadata, and with it each migration, is complete. Unusual: the
column types accept no naive time, no NUL and no NaN (``types``).
"""

from .champion import Champion, ChampionEvent, Rating
from .data_check import DataCheck
from .dataset import Dataset, JobDataset
from .file import File
from .installation import Beacon, SafeBatch, Worker
from .job import Adapter, Announcement, Attempt, Checkpoint, Event, Job, MetricPoint
from .job_request import IdempotencyKey, JobLabel, JobRequest
from .notification import Delivery, Receiver
from .queue import LaneReason, MeasuredRun, TenantUse
from .schedule import Schedule, ScheduleRun
from .tenant import ApiKey, AuditEntry, Charge, Hold, LedgerMonth, Tenant
from .types import Table
from .upload import Upload, UploadPart

__all__ = [
    "Adapter",
    "Announcement",
    "ApiKey",
    "Attempt",
    "AuditEntry",
    "Beacon",
    "Champion",
    "ChampionEvent",
    "Charge",
    "Checkpoint",
    "DataCheck",
    "Dataset",
    "Delivery",
    "Event",
    "File",
    "Hold",
    "IdempotencyKey",
    "Job",
    "JobDataset",
    "JobLabel",
    "JobRequest",
    "LaneReason",
    "LedgerMonth",
    "MeasuredRun",
    "MetricPoint",
    "Rating",
    "Receiver",
    "SafeBatch",
    "Schedule",
    "ScheduleRun",
    "Table",
    "Tenant",
    "TenantUse",
    "Upload",
    "UploadPart",
    "Worker",
]
