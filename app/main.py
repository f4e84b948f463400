"""The application of `uvicorn app.main:app`, also in a clone that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from ledgerservice.api.asgi import Service

app = Service()
