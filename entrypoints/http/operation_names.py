"""The name of each call in the page /schema, from which generated clients name their functions."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Operation(NamedTuple):
    """The id of a call, unique and stable, and its title."""

    id: str
    summary: str


# By method and path of the route.
OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/v1/jobs"): Operation("submitJob", "Submit a job"),
    ("POST", "/v1/jobs/batch"): Operation("submitJobs", "Submit many jobs"),
    ("GET", "/v1/jobs"): Operation("listJobs", "List jobs"),
    ("GET", "/v1/jobs/{job_id}"): Operation("getJob", "Get a job"),
    ("GET", "/v1/jobs/{job_id}/events"): Operation("listJobEvents", "List the events of a job"),
    ("GET", "/v1/jobs/{job_id}/explain"): Operation("explainJob", "Explain why a job waits"),
    ("POST", "/v1/jobs/{job_id}/cancel"): Operation("cancelJob", "Cancel a job"),
    ("POST", "/v1/jobs/{job_id}/retry"): Operation("retryJob", "Retry a job"),
    ("POST", "/v1/jobs/retry"): Operation("retryJobs", "Retry many jobs"),
    ("POST", "/v1/claims"): Operation("claimJobs", "Claim jobs"),
    ("POST", "/v1/claims/heartbeat"): Operation("extendLeases", "Extend leases"),
    ("POST", "/v1/claims/complete"): Operation("reportOutcomes", "Report many outcomes"),
    ("POST", "/v1/claims/return"): Operation("returnJobs", "Return jobs"),
    ("POST", "/v1/claims/take-back"): Operation("takeBackJobs", "Take jobs back"),
    ("POST", "/v1/jobs/{job_id}/complete"): Operation("completeJob", "Report a success"),
    ("POST", "/v1/jobs/{job_id}/fail"): Operation("failJob", "Report a failure"),
    ("GET", "/v1/audit"): Operation("listEvents", "List events of the log"),
    ("GET", "/v1/stream"): Operation("streamEvents", "Stream events of the log"),
    ("GET", "/checkpoint"): Operation("getCheckpoint", "Get the signed checkpoint of the log"),
    ("GET", "/tile/{path}"): Operation("getTile", "Get a tile of the log's Merkle tree"),
    ("GET", "/v1/stats"): Operation("getStats", "Get counts and rates"),
    ("GET", "/v1/limits"): Operation("getGlobalLimit", "Get the limits of all users together"),
    ("PUT", "/v1/limits"): Operation("setGlobalLimit", "Set the limits of all users together"),
    ("GET", "/v1/limits/{user_id}"): Operation("getUserLimits", "Get the limits of a user"),
    ("PUT", "/v1/limits/{user_id}"): Operation("setUserLimits", "Set the limits of a user"),
    ("GET", "/v1/limits/{user_id}/kinds/{kind}"): Operation(
        "getUserKindLimits", "Get the limits of a user's kind"
    ),
    ("PUT", "/v1/limits/{user_id}/kinds/{kind}"): Operation(
        "setUserKindLimits", "Set the limits of a user's kind"
    ),
    ("GET", "/v1/plans"): Operation("listPlans", "List plans"),
    ("GET", "/v1/plans/{name}"): Operation("getPlan", "Get a plan"),
    ("PUT", "/v1/plans/{name}"): Operation("setPlan", "Set the limits of a plan"),
    ("DELETE", "/v1/plans/{name}"): Operation("deletePlan", "Delete a plan"),
    ("GET", "/v1/kinds"): Operation("listKinds", "List kinds"),
    ("GET", "/v1/kinds/{kind}"): Operation("getKind", "Get the limits and the load of a kind"),
    ("PUT", "/v1/kinds/{kind}"): Operation("setKindLimit", "Set the limits of a kind"),
    ("GET", "/v1/resources"): Operation("listResources", "List resources with limits"),
    ("GET", "/v1/resources/{name}"): Operation("getResource", "Get the limits of a resource"),
    ("PUT", "/v1/resources/{name}"): Operation("setResource", "Set the limits of a resource"),
    ("GET", "/v1/callbacks"): Operation("listCallbacks", "List callback endpoints"),
    ("GET", "/v1/callbacks/{name}"): Operation("getCallback", "Get a callback endpoint"),
    ("PUT", "/v1/callbacks/{name}"): Operation(
        "setCallback", "Make or replace a callback endpoint"
    ),
    ("DELETE", "/v1/callbacks/{name}"): Operation("deleteCallback", "Delete a callback endpoint"),
    ("POST", "/v1/callbacks/{name}/rotate"): Operation(
        "rotateCallbackSecret", "Rotate the secret of callbacks"
    ),
    ("GET", "/v1/schedules"): Operation("listSchedules", "List schedules"),
    ("GET", "/v1/schedules/{name}"): Operation("getSchedule", "Get a schedule"),
    ("PUT", "/v1/schedules/{name}"): Operation("setSchedule", "Make or replace a schedule"),
    ("DELETE", "/v1/schedules/{name}"): Operation("deleteSchedule", "Delete a schedule"),
    ("POST", "/v1/schedules/{name}/trigger"): Operation("triggerSchedule", "Run a schedule now"),
    ("POST", "/v1/schedules/{name}/backfill"): Operation(
        "backfillSchedule", "Run the due times of a span of the past"
    ),
    ("GET", "/v1/keys"): Operation("listKeys", "List API keys"),
    ("POST", "/v1/keys"): Operation("createKey", "Create an API key"),
    ("POST", "/v1/keys/{name}/rotate"): Operation("rotateKey", "Rotate an API key"),
    ("DELETE", "/v1/keys/{name}"): Operation("revokeKey", "Revoke an API key"),
    ("GET", "/livez"): Operation("getLiveness", "Check that the process runs"),
    ("GET", "/healthz"): Operation("getHealth", "Check that the process runs, by another name"),
    ("GET", "/readyz"): Operation("getReadiness", "Check that the server is ready"),
    ("GET", "/metrics"): Operation("getMetrics", "Get metrics for Prometheus"),
    ("POST", "/jobs/submit_job"): Operation("submitLegacyJob", "Submit a text (legacy)"),
    ("GET", "/jobs/job_status/{job_id}"): Operation("getLegacyState", "Get a job's state (legacy)"),
    ("GET", "/jobs/dashboard"): Operation("getLegacyDashboard", "Get numbers of jobs (legacy)"),
}


def name_operations(paths: Mapping[str, Mapping[str, Any]]) -> None:
    """Give each call of an OpenAPI document its id and its title."""
    for path, calls in paths.items():
        for method, call in calls.items():
            if (named := OPERATIONS.get((method.upper(), path))) is not None:
                call["operationId"], call["summary"] = named
