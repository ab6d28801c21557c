"""The moment that a page is asked to show, as a person writes it."""

from datetime import UTC, datetime

from domain import validation


def moment_of(text: str) -> int | datetime:
    """A position of the log, or a time; one without a zone is UTC. Raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return validation.as_of(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
