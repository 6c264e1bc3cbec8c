"""Submits jobs as a person's program does, through ``tasks.submission``: JSON in, a line of JSON an outcome out.

Standard input: a list of ``{"id": …, "fields": {…}}``. Each line of output: ``{"id", "ok", "seconds", "error"}``,
written as soon as the submit answered, so that whoever kills this program knows what had been promised.
"""

import json
import sys
import time


def main():
    from celora.errors import CeloraError
    from celora.services.jobs import submit

    for job in json.load(sys.stdin):
        began, error = time.monotonic(), None
        try:
            submit(job["fields"], job_id=job["id"])
        except CeloraError as raised:
            error = {"code": raised.code, "message": raised.message}
        seconds = round(time.monotonic() - began, 4)
        print(json.dumps({"id": job["id"], "ok": error is None, "seconds": seconds, "error": error}), flush=True)


if __name__ == "__main__":
    main()
