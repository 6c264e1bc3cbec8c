"""A client that stays: a program of its own that submits, cancels and pauses through ``tasks.submission``, timed.

    with Door(cluster) as door:
        answer = door.submit("j1", cluster.spec(steps=5))     # {"id", "ok", "seconds", "error", "answer"}
        door.cancel("j1")

It is a process, because Celery reads its broker's URL once a process. The seconds are the call's own.
"""

import json
import subprocess
import sys
import time


class Door:
    """See the module's docstring.

    Args:
        cluster: Whose installation it speaks to.
        env: Environment on top of the cluster's.
    """

    def __init__(self, cluster, env=None):
        self._environment = {**cluster.environment, **(env or {})}
        self._log = cluster.home / "logs" / "door.log"

    def __enter__(self):
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                bufsize=1,
            )
        assert json.loads(self._process.stdout.readline()) == "ready"
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def submit(self, job_id, fields):
        """Submit a job under an id."""
        return self.ask("submit", job_id, fields)

    def cancel(self, job_id):
        """Cancel a job."""
        return self.ask("cancel", job_id, None)

    def ask(self, verb, job_id, fields):
        """Call a function of ``tasks.submission`` and return what came of it."""
        self._process.stdin.write(json.dumps([verb, job_id, fields]) + "\n")
        return json.loads(self._process.stdout.readline())


def main():
    """The program: a line of JSON in, a line out."""
    from celora.errors import CeloraError
    from celora.services import jobs

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        verb, job_id, fields = json.loads(line)
        began, error, answer = time.monotonic(), None, None
        try:
            call = getattr(jobs, verb)
            answer = call(fields, job_id=job_id) if verb == "submit" else call(job_id)
        except CeloraError as raised:
            error = {"code": raised.code, "message": raised.message}
        seconds = round(time.monotonic() - began, 4)
        told = {"id": job_id, "ok": error is None, "seconds": seconds, "error": error, "answer": str(answer)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
