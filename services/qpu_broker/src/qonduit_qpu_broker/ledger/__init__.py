"""The ledger: every QPU job, session and transition, in SQLite. The only package that knows SQL.

Functions take a connection and run inside one transaction; `LedgerThread.run` gives them both.
"""
