"""A cluster with servers of its own, from ``with`` to the end of the block."""

from contextlib import ExitStack, contextmanager

from chaos.cluster import Cluster
from chaos.servers import Postgres, Valkey

IMPATIENT = "&options=-c idle_in_transaction_session_timeout=2000"
"""As celora's own 30 s to a lease of 90 s, so these 2 s to a lease of 4 s."""


@contextmanager
def installation(folder, *, database="sqlite", gpus=3, settings=None, step_s=0.02):
    """A running cluster on a Valkey, and on SQLite or a PostgreSQL.

    Args:
        folder: Where everything of it lies.
        database: ``sqlite`` or ``postgres``.
        gpus: GPU workers; 0 starts no process at all.
        settings: As of ``Cluster``.
        step_s: As of ``Cluster``.
    """
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        url = None
        if database == "postgres":
            url = stack.enter_context(Postgres(folder / "postgres")).create("chaos") + IMPATIENT
        cluster = Cluster(folder / "home", broker_url=valkey.url, database_url=url, settings=settings, step_s=step_s)
        with cluster:
            if gpus:
                cluster.start(gpus)
            yield cluster
