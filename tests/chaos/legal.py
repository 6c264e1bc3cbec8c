"""The history checker: reads a job's events in their order and says, in words, what is impossible about them.

Pure Python over plain dicts (kind, attempt, data). It knows the state machine by itself and not through the product's
code, so that a mistake there cannot hide here.
"""

STAGES = ["prepare", "train", "evaluate", "publish"]
MEASURED = ("evaluated_again", "measured_as_served")
ENDS = ("completed", "failed", "cancelled", "rejected")
BEFORE = {
    "submitted": {None}, "rejected": {None}, "queued": {"pending"}, "resent": {"queued"},
    "stage_started": {"queued"}, "stage_finished": {"running"}, "released": {"running"}, "retrying": {"running"},
    "worker_lost": {"running"}, "checkpoint": {"running"}, "cancel_requested": {"running"},
    "completed": {"published"}, "failed": {"pending", "queued", "running"},
    "cancelled": {"pending", "queued", "running"}, "evaluated_again": {"completed"},
    "measured_as_served": {"completed"},
    "paused": {"pending", "queued"}, "pause_requested": {"running"}, "unpaused": {"pending", "running"},
    "handed_back": {"queued"}, "retries": {"pending"},
}  # fmt: skip
"""In which status each kind of event may happen; other kinds are remarks and change nothing."""
AFTER = {"submitted": "pending", "rejected": "failed", "queued": "queued", "stage_started": "running"}


def faults_of(events):
    """What is impossible about a job's history; an empty list is a legal one."""
    faults, status, stage, attempt = [], None, "prepare", 1
    for number, event in enumerate(events):
        kind, data = event["kind"], event["data"] or {}
        wrong = []
        if event["attempt"] != attempt:
            wrong.append(f"of attempt {event['attempt']} while {attempt} is the present one")
        if status in ENDS and kind not in MEASURED:
            wrong.append(f"after the end, which was {status}")
        if kind in BEFORE and status not in BEFORE[kind]:
            wrong.append(f"in status {status}")
        if kind in BEFORE and data.get("stage", stage) != stage:
            wrong.append(f"of stage {data['stage']} in stage {stage}")
        faults += [f"event {number} ({kind}) {fault}" for fault in wrong]
        status, stage, attempt = _following(kind, data, status, stage, attempt)
    return faults


def _following(kind, data, status, stage, attempt):
    """Where a job stands after an event."""
    if kind == "stage_finished":
        return *_after_stage(stage), attempt
    if kind in ("paused", "handed_back"):
        return "pending", stage, data.get("next_attempt", attempt)
    if kind == "retries":
        return status, data["begins_at"], attempt
    if kind in ("released", "retrying", "worker_lost"):
        return "pending", stage, attempt + 1
    if kind in ENDS:
        return kind, stage, attempt
    return AFTER.get(kind, status), stage, attempt


def _after_stage(stage):
    """Status and stage after a stage's end."""
    if stage == STAGES[-1]:
        return "published", stage
    return "pending" if stage == "prepare" else "queued", STAGES[STAGES.index(stage) + 1]
