"""Energy accounts: the ledger, the record of a run, and its journal on disk."""
