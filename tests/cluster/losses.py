"""The ways in which a cluster loses a node."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from tests.support.galera import Cluster, Node

# From a loss until the node is brought back: the others take some 6 s to go on without it.
GONE_SECONDS: Final = (8.0, 14.0)
WRITER_SHARE: Final = 0.5  # of losses that are of the node that is written


class Losses:
    """Loses a node, waits, and brings it back."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._chance = chance
        self._kinds: dict[str, Callable[[Node], Callable[[], None]]] = {
            "killed": self._kill,
            "stopped": self._stop,
            "frozen": self._freeze,
            "cut off": self._isolate,
        }

    def lose(self, written: Node) -> str:
        """Lose a node; return what was done. `written` is the node that the servers write to."""
        others = [node for node in self._cluster.nodes if node is not written]
        is_written = self._chance.random() < WRITER_SHARE
        node = written if is_written else self._chance.choice(others)
        kind = self._chance.choice(list(self._kinds))
        bring_back = self._kinds[kind](node)
        time.sleep(self._chance.uniform(*GONE_SECONDS))
        bring_back()
        self._cluster.wait_until_whole()
        name = f"{kind}, {'the written node' if is_written else 'another node'}"
        self.counts[name] += 1
        return name

    def _kill(self, node: Node) -> Callable[[], None]:
        node.kill()
        return node.start

    def _stop(self, node: Node) -> Callable[[], None]:
        node.stop()
        return node.start

    def _freeze(self, node: Node) -> Callable[[], None]:
        node.pause()
        return node.resume

    def _isolate(self, node: Node) -> Callable[[], None]:
        node.isolate()
        return lambda: node.isolate(is_isolated=False)
