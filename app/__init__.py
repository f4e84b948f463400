"""The package of `uvicorn app.main:app`, the command of docs/SEED.md."""
