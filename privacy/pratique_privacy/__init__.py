"""The mathematics of privacy: noise, accounting, the ledger, the audits and the gate."""
