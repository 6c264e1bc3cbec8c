"""Kills: which process of an installation dies next, again and again, and whoever died is started anew at once.

A storm looks at the installation only to see whether it is over; it knows nothing of what it hits.
"""

import time
from collections import Counter

VICTIMS = {"gpu": 74, "trainer": 14, "control": 6, "prep": 3, "beat": 3}
"""Of a hundred kills: whole GPU workers, trainers alone (as the kernel does it), the others whole."""


class Storm:
    """Kills processes of a cluster at random times.

    Args:
        cluster: The installation.
        dice: Chooses victims and pauses.
        pause_s: The shortest and the longest time between two kills.
    """

    def __init__(self, cluster, dice, pause_s=(0.8, 2.2)):
        self._cluster, self._dice, self._pause_s = cluster, dice, pause_s
        self.kills = Counter()

    def rage(self, kills, over):
        """Kill until there were so many kills or it is over; the number of kills."""
        while sum(self.kills.values()) < kills and not over():
            time.sleep(self._dice.uniform(*self._pause_s))
            self.strike()
            self.restart()
        return sum(self.kills.values())

    def strike(self):
        """One kill, of a process that is up; on a slow machine there may be none at the moment."""
        present = {kind_of(name) for name in self._cluster.workers} | {"trainer"}
        kinds = [kind for kind in VICTIMS if kind in present]
        kind = self._dice.choices(kinds, weights=[VICTIMS[kind] for kind in kinds])[0]
        names = [name for name in self._up() if kind_of(name) == ("gpu" if kind == "trainer" else kind)]
        if not names:
            return
        victim = self._dice.choice(names)
        if kind != "trainer":
            self._cluster.kill(victim)
            self.kills[kind] += 1
        elif self._cluster.kill_trainer(victim):
            self.kills[kind] += 1

    def _up(self):
        """Who has come up since its start; a storm over processes that never get to work would show nothing."""
        return sorted(name for name in self._cluster.workers if self._cluster.up(name))

    def restart(self):
        """Start whatever is dead, as an init system does."""
        for name, process in list(self._cluster.workers.items()):
            if process.poll() is not None:
                self._cluster.start_worker(kind_of(name), name)


def kind_of(name):
    """A worker's kind by its name."""
    return "gpu" if name.startswith("cpu-") else name.split("-", 1)[0]
