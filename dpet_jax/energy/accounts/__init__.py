"""Who used how much: the ledger, the accounts of a run, and its journal on disk."""
