"""What the orchestrator must not forget, in SQLite or PostgreSQL through SQLAlchemy.

A plan is stored before it is applied, and only the newest generation may be applied. Every call
is one transaction and is short; use one `Store` from one thread. Database errors come out as
ours.
"""

from orchestrator.store.plans import StoredPlan, StoredStep
from orchestrator.store.store import Store

__all__ = ["Store", "StoredPlan", "StoredStep"]
