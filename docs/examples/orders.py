"""An order and its job in one transaction, by SQLAlchemy's ORM.

    python orders.py URL ITEM…

URL is the database that Fairlog runs on; each item is one order.
"""

import sys

from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from fairlog_client import enqueue


class Base(DeclarativeBase):
    """The tables of this application."""


class Order(Base):
    """An order. Its invoice is written by a job."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(100))


def place_order(session: Session, item: str) -> Order:
    """Write an order and its job. Neither exists before the session commits."""
    order = Order(item=item)
    session.add(order)
    session.flush()  # gives it its id
    enqueue(session, user_id="shop", kind="echo", payload={"order": order.id, "item": item})
    return order


def main(url: str, items: list[str]) -> None:
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    for item in items:
        with Session(engine) as session, session.begin():
            order = place_order(session, item)
            if not item:
                raise SystemExit("An order needs an item.")  # and so there is no job either
            print(f"order {order.id}: {item}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
