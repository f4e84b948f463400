"""The yardstick: a ledger written in the usual way, for comparison.

It uses FastAPI with plain `def` routes, the synchronous SQLAlchemy ORM, one session per request,
two SELECT FOR UPDATE in ascending order of the ids, and one commit per request. It is as fast as
this design allows: no unnecessary statement, prepared statements, and one connection for each of
the threads in which FastAPI runs such routes.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import (
    BigInteger,
    Engine,
    ForeignKey,
    Numeric,
    String,
    UniqueConstraint,
    create_engine,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

THREADS = 40  # FastAPI's, through anyio

Money = Annotated[Decimal, mapped_column(Numeric(20, 2))]


class Base(DeclarativeBase):
    """The yardstick's tables."""


class Account(Base):
    """An account and its balance."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    currency: Mapped[str] = mapped_column(String(3))
    balance: Mapped[Money]


class Transaction(Base):
    """A transfer. Its key is unique for the account that it debits."""

    __tablename__ = "transactions"
    __table_args__ = (UniqueConstraint("account_id", "idempotency_key"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id))
    counterparty_id: Mapped[int] = mapped_column(ForeignKey(Account.id))
    amount: Mapped[Money]
    idempotency_key: Mapped[str] = mapped_column(String(255))
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Entry(Base):
    """The change of one account in a transaction. `balance` is the result."""

    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    transaction_id: Mapped[int] = mapped_column(ForeignKey(Transaction.id), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey(Account.id), index=True)
    amount: Mapped[Money]
    balance: Mapped[Money]


class TransferRequest(BaseModel):
    """Move money between two accounts."""

    from_account_id: int
    to_account_id: int
    amount: Decimal = Field(gt=0, decimal_places=2)
    idempotency_key: str = Field(min_length=1, max_length=255)


class TransferAnswer(BaseModel):
    """A posted transfer."""

    transaction_id: int
    amount: Decimal
    sender_new_balance: Decimal


def engine_for(url: str) -> Engine:
    """An engine with one connection per thread."""
    psycopg_url = make_url(url).set(drivername="postgresql+psycopg")
    return create_engine(psycopg_url, pool_size=THREADS, max_overflow=0)


def fund(url: str, accounts: int, amount: str) -> None:
    """Create the tables, and `accounts` accounts with ids from 1 and `amount` on each."""
    engine = engine_for(url)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(FUND, {"accounts": accounts, "amount": amount})
    engine.dispose()


FUND = text(
    "INSERT INTO accounts (id, owner, currency, balance)"
    " SELECT id, 'owner ' || id, 'USD', CAST(:amount AS numeric)"
    " FROM generate_series(1, :accounts) AS id"
)

app = FastAPI()
sessions: sessionmaker[Session] = sessionmaker()
if "DATABASE_URL" in os.environ:
    sessions.configure(bind=engine_for(os.environ["DATABASE_URL"]))


def session() -> Iterator[Session]:
    """A session for one request."""
    with sessions() as opened:
        yield opened


@app.post("/transfer/")
def transfer(
    body: TransferRequest, session: Annotated[Session, Depends(session)]
) -> TransferAnswer:
    """Move money once per key."""
    if body.from_account_id == body.to_account_id:
        raise HTTPException(422, "same account")
    accounts = {
        account_id: session.scalar(
            select(Account).where(Account.id == account_id).with_for_update()
        )
        for account_id in sorted((body.from_account_id, body.to_account_id))
    }
    sender, receiver = accounts[body.from_account_id], accounts[body.to_account_id]
    if sender is None or receiver is None:
        raise HTTPException(404, "no such account")
    try:
        return _post(session, body, sender, receiver)
    except IntegrityError:
        session.rollback()
        return _replay(session, body)


def _post(
    session: Session, body: TransferRequest, sender: Account, receiver: Account
) -> TransferAnswer:
    transaction = Transaction(
        account_id=sender.id,
        counterparty_id=receiver.id,
        amount=body.amount,
        idempotency_key=body.idempotency_key,
    )
    session.add(transaction)
    session.flush()
    if sender.balance < body.amount:
        raise HTTPException(409, "insufficient funds")
    sender.balance -= body.amount
    receiver.balance += body.amount
    for account, amount in ((sender, -body.amount), (receiver, body.amount)):
        entry = Entry(
            transaction_id=transaction.id,
            account_id=account.id,
            amount=amount,
            balance=account.balance,
        )
        session.add(entry)
    answer = TransferAnswer(
        transaction_id=transaction.id, amount=body.amount, sender_new_balance=sender.balance
    )
    session.commit()
    return answer


def _replay(session: Session, body: TransferRequest) -> TransferAnswer:
    """The answer to the first request with this key."""
    transaction, balance = session.execute(
        select(Transaction, Entry.balance)
        .join(Entry, Entry.transaction_id == Transaction.id)
        .where(
            Entry.account_id == Transaction.account_id,
            Transaction.account_id == body.from_account_id,
            Transaction.idempotency_key == body.idempotency_key,
        )
    ).one()
    if (transaction.counterparty_id, transaction.amount) != (body.to_account_id, body.amount):
        raise HTTPException(409, "the key was used for another transfer")
    return TransferAnswer(
        transaction_id=transaction.id, amount=transaction.amount, sender_new_balance=balance
    )


@app.get("/health/ready")
def ready() -> None:
    """Answers 200 when the server is up."""
