"""The limits that hold at each moment, by the events that set them."""

from typing import Any

from tests.soak.referee.history import Event

Name = tuple[str, ...]


class Limits:
    """Each limit of a user is the user's own, else that of the user's plan, else the server's."""

    def __init__(self) -> None:
        self._said: dict[Name, dict[str, Any]] = {}
        self._throttle_since: dict[Name, int] = {}  # position from which a throttle counts

    def see(self, event: Event) -> None:
        if event.type == "LimitChanged":
            name = _name_of(event.data)
            before = self._said.get(name, {})
            if event.data.get("throttle") != before.get("throttle"):
                self._throttle_since[name] = event.position
            self._said[name] = event.data
        elif event.type == "PlanDeleted":
            self._said.pop(("plan", event.data["plan"]), None)

    def of_user(self, user: str, field: str) -> Any:
        """Return a limit of a user, or None."""
        name = self._name_for_user(user, field)
        return None if name is None else self._said[name][field]

    def of_kind(self, kind: str, field: str) -> Any:
        return self._said.get(("kind", kind), {}).get(field)

    def of_all(self, field: str) -> Any:
        return self._said.get(("global",), {}).get(field)

    def user_throttle_since(self, user: str) -> int:
        name = self._name_for_user(user, "throttle")
        return 0 if name is None else self._throttle_since.get(name, 0)

    def kind_throttle_since(self, kind: str) -> int:
        return self._throttle_since.get(("kind", kind), 0)

    def _name_for_user(self, user: str, field: str) -> Name | None:
        own = self._said.get(("user", user), {})
        for name in (("user", user), ("plan", own.get("plan") or "default")):
            if self._said.get(name, {}).get(field) is not None:
                return name
        return None


def _name_of(data: dict[str, Any]) -> Name:
    scope: str = data["scope"]
    match scope:
        case "user":
            return (scope, data["user_id"])
        case "user_kind":
            return (scope, data["user_id"], data["kind"])
        case "global":
            return (scope,)
        case _:
            return (scope, data[scope])
