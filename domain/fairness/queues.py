"""Queues: the waiting jobs, of all users, of one kind that use the same resources.

A claim can take jobs from a queue while its kind and each of its resources can be used, so that no
claim reads a queue from which nothing can start.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Final, NewType

from domain.language.identifiers import Kind, ResourceName, UserId

# The kind, followed by the names of the resources in order; alone, the kind. It is the name of a
# queue in memory and in the tables.
QueueName = NewType("QueueName", str)
Lane = tuple[UserId, QueueName]  # the waiting jobs of one user in one queue

SEPARATOR: Final = "\0"  # stands in no name


def queue_of(kind: Kind, resources: Collection[ResourceName]) -> QueueName:
    return QueueName(SEPARATOR.join((kind, *resources)) if resources else kind)


@lru_cache(maxsize=10_000)  # called for each user that a claim looks at
def kind_of(queue: QueueName) -> Kind:
    return Kind(queue.partition(SEPARATOR)[0])


@lru_cache(maxsize=10_000)
def resources_of(queue: QueueName) -> tuple[ResourceName, ...]:
    return tuple(map(ResourceName, queue.split(SEPARATOR)[1:]))
